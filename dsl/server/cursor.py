"""Where the cursor stands in a text that is being written, which is broken right there.

Finds the declaration around it, the brackets that are open and, by the parser itself, the kinds of
tokens that could come next. What was typed of a word is left out: it is what will be completed.
Knows no names and no types.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from mserve.dsl.lalr import END, Automaton, Stopped, Token, span_of
from mserve.dsl.source import Source
from mserve.dsl.token_kinds import CLOSING, DECLARATIONS, OPENING, PLAIN_HEADS, STATEMENTS

_WORD = re.compile(r"[A-Za-z0-9_.%]*\Z")
_NAME = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]*)?")
_COMMENT = re.compile(r"#[^\r\n]*\Z")


@dataclass
class Level:
    """What stands in an open bracket, without what stands in brackets that are closed again.

    `opener` and `owner`, the token before it, are None for the declaration itself.
    """

    opener: Token | None = None
    owner: Token | None = None
    tokens: list[Token] = field(default_factory=list)

    @property
    def callee(self) -> str:
        """The name before its parenthesis; empty for other brackets."""
        calls = self.opener is not None and self.opener.type == "LPAR"
        return str(self.owner) if calls and self.owner and self.owner.type == "NAME" else ""

    def has(self, *kinds: str) -> bool:
        return any(token.type in kinds for token in self.tokens)

    @property
    def num_commas(self) -> int:
        return sum(token.type == "COMMA" for token in self.tokens)

    @property
    def line(self) -> list[Token]:
        """The step, or line of a test, at its end."""
        starts = (i for i in range(len(self.tokens) - 1, -1, -1))
        begin = next((i for i in starts if self.tokens[i].type in STATEMENTS), None)
        return [] if begin is None else self.tokens[begin:]


@dataclass(frozen=True)
class Cursor:
    """`text[start:offset]` is what was typed of a word; `before` and `after` are the other tokens
    of the declaration; `everything` are all tokens of the text."""

    start: int
    offset: int
    column: int  # of `start`, from 0
    at_line_start: bool
    before: list[Token]
    after: list[Token]
    everything: list[Token]

    @property
    def kind(self) -> str:
        """The declaration's kind of keyword; empty above the first one."""
        return self.before[0].type if self.before else ""

    @property
    def previous(self) -> str:
        return self.before[-1].type if self.before else ""

    @property
    def name(self) -> str:
        """Of the declaration."""
        named = len(self.before) > 1 and self.before[1].type == "NAME"
        return str(self.before[1]) if named else ""

    @property
    def is_top_level(self) -> bool:
        """A declaration may begin here, and nothing else that one would write on a new line."""
        if not self.at_line_start or not self.before:
            return not self.before
        if len(self.levels) > 1:  # a bracket that nothing closes before the next declaration
            return self.column == 0 and len(self._rests) == 1
        return self.column == 0 or END in self.accepts

    @cached_property
    def accepts(self) -> frozenset[str]:
        """The kinds of tokens that may come next."""
        if not self.before:
            return frozenset()
        for tokens in _readings(self.before, fresh=self.at_line_start):
            found = _accepted_after(tokens)
            if found is not None:
                return found
        return _accepted_somehow(self.before)

    @cached_property
    def levels(self) -> list[Level]:
        """From the declaration itself to the innermost bracket that is open."""
        levels = [Level()]
        previous: Token | None = None
        for token in self.before:
            if token.type in STATEMENTS:  # stands in no bracket but a block's
                levels = levels[:2]
            if token.type in OPENING:
                levels.append(Level(token, previous))
            elif token.type in CLOSING and len(levels) > 1:
                levels.pop()
                levels[-1].tokens.append(token)
            else:
                levels[-1].tokens.append(token)
            previous = token
        return levels

    @property
    def rest_of_levels(self) -> list[list[Token]]:
        """For each level what follows in it behind the cursor, without closed brackets."""
        rests = [*self._rests, *([] for _ in self.levels)]
        return rests[: len(self.levels)][::-1]

    @cached_property
    def _rests(self) -> list[list[Token]]:
        """The same from the innermost level outwards, one more for each bracket that is closed."""
        rests: list[list[Token]] = [[]]
        depth = 0
        for token in self.after:
            if token.type in CLOSING and depth == 0:
                rests.append([])
            elif token.type in CLOSING:
                depth -= 1
            elif token.type in OPENING:
                depth += 1
            elif depth == 0:
                rests[-1].append(token)
        return rests


def cursor_at(source: Source, tokens: Sequence[Token], offset: int) -> Cursor | None:
    """None where nothing is completed: in comments, texts and numbers.

    `tokens` are all tokens of the source.
    """
    line_start = source.line_start(source.position(offset).line)
    word = _WORD.search(source.text, line_start, offset)
    assert word is not None, "matches the empty word, too"
    begun = word.group().rpartition("..")[2]
    if not _NAME.fullmatch(begun) or _in_comment_or_text(source, tokens, offset):
        return None
    start = offset - len(begun)
    index = bisect_left(tokens, start, key=_start)
    before, after = list(tokens[:index]), list(tokens[index:])
    if after and _start(after[0]) < offset:  # the word itself
        after = after[1:]
    return Cursor(
        start,
        offset,
        start - line_start,
        not source.text[line_start:start].strip(),
        _last_declaration(before),
        _up_to_next_declaration(before, after),
        list(tokens),
    )


def _start(token: Token) -> int:
    return span_of(token).start


def _in_comment_or_text(source: Source, tokens: Sequence[Token], offset: int) -> bool:
    index = bisect_left(tokens, offset, key=_start) - 1
    last = tokens[index] if index >= 0 else None
    end = span_of(last).end if last is not None else 0
    if last is not None and last.type == "TEXT":
        closed = len(last) > 1 and last.endswith('"')
        return offset < end or (offset == end and not closed)
    return _COMMENT.search(source.text, end, max(end, offset)) is not None


def begins_declaration(before: Token | None, token: Token) -> bool:
    """Keywords are reserved; the only other place of one is `expect route`."""
    expected = before is not None and before.type == "EXPECT" and before.line == token.line
    return token.type in DECLARATIONS and not expected


def _last_declaration(tokens: list[Token]) -> list[Token]:
    for index in range(len(tokens) - 1, -1, -1):
        if begins_declaration(tokens[index - 1] if index else None, tokens[index]):
            return tokens[index:]
    return []


def _up_to_next_declaration(before: list[Token], after: list[Token]) -> list[Token]:
    previous = before[-1] if before else None
    for index, token in enumerate(after):
        if begins_declaration(previous, token):
            return after[:index]
        previous = token
    return after


# --- the parser's opinion ------------------------------------------------------------------------

_CURSOR = Token("CURSOR", "")  # of a kind that the grammar does not know, so the parser stops at it


def _automaton(tokens: Sequence[Token]) -> Automaton:
    return Automaton("strategy" if tokens[0].type == "STRATEGY" else "declaration")


def _accepted_after(tokens: Sequence[Token]) -> frozenset[str] | None:
    """None where the tokens themselves have a mistake."""
    try:
        _automaton(tokens).feed([*tokens, _CURSOR])
    except Stopped as stop:
        return frozenset(stop.accepts) if stop.kind == _CURSOR.type else None
    raise AssertionError("the parser took a kind of token that does not exist")


def _accepted_somehow(tokens: Sequence[Token]) -> frozenset[str]:
    """Without the tokens that do not fit."""
    automaton = _automaton(tokens)
    for token in [*tokens, _CURSOR]:
        try:
            automaton.feed([token])
        except Stopped as stop:
            if token is _CURSOR:
                return frozenset(stop.accepts)
    raise AssertionError("the parser took a kind of token that does not exist")


def _readings(tokens: list[Token], *, fresh: bool) -> Iterator[list[Token]]:
    """The tokens as they are, then without what may be broken above the line of the cursor.

    `fresh`: nothing stands before the cursor in its line.
    """
    yield tokens
    kinds = PLAIN_HEADS.get(tokens[0].type)
    if kinds is None or not any(token.type in STATEMENTS | {"LBRACE"} for token in tokens):
        return
    head = [tokens[0].update(type=kind, value=text) for kind, text in kinds]
    starts = [index for index, token in enumerate(tokens) if token.type in STATEMENTS]
    if tokens[0].type not in ("ROUTE", "TEST"):
        pairs = enumerate(pairwise(tokens))
        starts = [i for i, (name, sign) in pairs if (name.type, sign.type) == ("NAME", "EQUAL")]
    if starts:
        yield head + tokens[starts[-1] :]
    if fresh or tokens[-1].type == "LBRACE":
        yield head
