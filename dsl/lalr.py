"""Lark behind a narrow door: tokens of a text, and an automaton that is fed with them.

The only module but tables.py that calls lark; it translates lark's exceptions. Knows no rule of the
grammar, no wording.
"""

from collections.abc import Iterable, Set
from typing import Any, cast

import lark

from mserve.dsl.syntax import Span
from mserve.dsl.tables import load_parser

Token = lark.Token
Branch = lark.Tree[lark.Token]

END = "$END"


class Stopped(Exception):  # not an error of ours: it says where the parser stopped
    """The automaton, in state `position`, accepts the kinds `accepts`, but not `kind`."""

    def __init__(self, kind: str, position: object, accepts: Set[str]) -> None:
        super().__init__(f"unexpected {kind}")
        self.kind = kind
        self.position = position
        self.accepts = accepts


class Automaton:
    """One run of the LALR automaton, fed token by token. After `Stopped` it may be fed another."""

    def __init__(self, start: str) -> None:
        self._parser: Any = load_parser().parse_interactive(start=start)

    def feed(self, tokens: Iterable[Token]) -> None:
        """Raises Stopped at the first token that is not accepted."""
        try:
            for token in tokens:
                self._parser.feed_token(token)
        except lark.UnexpectedToken as error:
            raise self._stopped(error) from None

    def finish(self, last: Token | None) -> Branch:
        """The tree; raises Stopped if the text may not end after `last`."""
        try:
            return cast("Branch", self._parser.feed_eof(last))
        except lark.UnexpectedToken as error:
            raise self._stopped(error) from None

    def _stopped(self, error: lark.UnexpectedToken) -> Stopped:
        """A whole tree accepts only the end, and lark then names nothing."""
        position = self._parser.parser_state.position
        return Stopped(error.token.type, position, self._parser.accepts() or {END})


class Scanner:
    """Tokens of a text, without comments and white space."""

    def __init__(self, text: str) -> None:
        self._thread: Any = load_parser().parse_interactive(text, start="start").lexer_thread

    def read_into(self, tokens: list[Token]) -> int | None:
        """Reads on; the offset of a character that begins no token, or None at the end."""
        try:
            tokens.extend(self._thread.lex(None))
        except lark.UnexpectedCharacters as error:
            return error.pos_in_stream
        return None

    def skip(self, text: str, kind: str = "") -> Token | None:
        """Goes past `text`, which stands at the current offset; a token of `kind` made from it."""
        counter = self._thread.state.line_ctr
        offset, line, column = counter.char_pos, counter.line, counter.column
        counter.feed(text)
        if not kind:
            return None
        ends = counter.line, counter.column, counter.char_pos
        return Token(kind, text, offset, line, column, *ends)


def span_of(item: Branch | Token) -> Span:
    """Characters of a token or branch; parentheses around an expression belong to it."""
    if isinstance(item, Token):
        assert item.start_pos is not None, "the lexer sets every token's start"
        assert item.end_pos is not None, "the lexer sets every token's end"
        return Span(item.start_pos, item.end_pos)
    meta = item.meta
    assert not meta.empty, f"{item.data} has no position: propagate_positions is off"
    start = getattr(meta, "container_start_pos", meta.start_pos)
    return Span(start, getattr(meta, "container_end_pos", meta.end_pos))


def branches_of(item: Branch) -> list[Branch]:
    """The children that are branches: neither tokens nor what was left out."""
    return [child for child in item.children if isinstance(child, lark.Tree)]


def lines_of(tokens: list[Token]) -> tuple[int, int]:
    """First and last line of some tokens."""
    first, last = tokens[0].line, tokens[-1].end_line
    assert first is not None, "the lexer sets every token's line"
    assert last is not None, "the lexer sets every token's line"
    return first, last


def spelling(kind: str) -> str | None:
    """How a fixed kind of token is written (`{`, `route`); None for names, literals and the end."""
    if kind == END:
        return None
    pattern = load_parser().get_terminal(kind).pattern
    return pattern.value if pattern.type == "str" else None
