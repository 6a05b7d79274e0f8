"""Where the parser stopped, with the tokens around it. Knows no wording."""

from dataclasses import dataclass

from mserve.dsl.lalr import END, Stopped, Token

CLOSING = {"{": "}", "(": ")", "[": "]"}


@dataclass(frozen=True)
class Failure:
    """The parser stopped before `tokens[index]`, or, after the last, because it wants more."""

    tokens: list[Token]
    index: int
    stop: Stopped

    @property
    def found(self) -> Token | None:
        return self.tokens[self.index] if self.index < len(self.tokens) else None

    @property
    def complete(self) -> bool:
        """The declaration could have ended here."""
        return END in self.stop.accepts

    @property
    def opener(self) -> Token | None:
        """The innermost bracket that is open where the parser stopped."""
        opened: list[Token] = []
        for token in self.tokens[: self.index]:
            if str(token) in CLOSING:
                opened.append(token)
            elif opened and str(token) == CLOSING[str(opened[-1])]:
                opened.pop()
        return opened[-1] if opened else None
