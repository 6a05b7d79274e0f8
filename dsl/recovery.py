"""Reading a text with mistakes of form: one declaration after another, each step or test line alone.

Keywords are reserved, so a declaration's keyword begins one wherever it stands at a line's start.
A misspelled keyword is taken for the one it resembles. A declaration with a mistake is not given to
later checks. Words for a mistake come from mistakes.py.
"""

from collections import deque
from collections.abc import Iterator, Set
from dataclasses import dataclass, field

from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.failure import Failure
from mserve.dsl.lalr import Automaton, Branch, Stopped, Token, lines_of
from mserve.dsl.mistakes import describe, headless, misspelled_keyword, second_strategy
from mserve.dsl.source import Source
from mserve.dsl.token_kinds import (
    DECLARATIONS,
    EXPRESSION_ENDS,
    PLAIN_HEADS,
    STEPS,
    TEST_LINES,
    WITH_SETTINGS,
)
from mserve.dsl.tokens import MAX_PROBLEMS

# What begins a line of a block, by the declaration that holds it.
_LINES = {"ROUTE": STEPS, "TEST": TEST_LINES}
_SETTING_SIGNS = frozenset(["=", ":", "==", "<", "<=", ">", ">="])
_MAY_END = EXPRESSION_ENDS | {"RBRACE"}
_MAX_PROBLEMS_PER_DECLARATION = 10

Chunk = list[Token]


@dataclass
class Reading:
    """Branches of the header and the declarations without mistakes; the names of the others."""

    branches: list[Branch]
    problems: list[Diagnostic]
    unread: set[str] = field(default_factory=set)


@dataclass
class _Outcome:
    """`branch` is set if there was no problem; `left_over` begins with a mended keyword."""

    branch: Branch | None = None
    problems: list[Diagnostic] = field(default_factory=list)
    left_over: Chunk = field(default_factory=list)


def read_declarations(source: Source, tokens: Chunk, lexical: list[Diagnostic]) -> Reading:
    """Reads what can be read; `lexical` problems make the declarations they stand in unreadable."""
    reading = Reading([], list(lexical))
    broken_lines = {source.position(problem.span.start).line for problem in lexical}
    chunks = deque(_split(tokens))
    _check_head(source, chunks, reading)
    head: Token | None = None
    while chunks and len(reading.problems) < MAX_PROBLEMS:
        chunk = chunks.popleft()
        _mend_keyword(chunk, reading)
        if chunk[0].type == "STRATEGY" and head is not None:
            reading.problems.append(second_strategy(chunk[0], head))
            continue
        head = chunk[0] if chunk[0].type == "STRATEGY" else head
        outcome = _read_chunk(chunk)
        if outcome.left_over:
            chunks.appendleft(outcome.left_over)
        reading.problems += [
            problem
            for problem in outcome.problems
            if source.position(problem.span.start).line not in broken_lines
        ]
        if outcome.branch is not None and not _touches(chunk, broken_lines):
            reading.branches.append(outcome.branch)
        elif chunk[0].type != "STRATEGY":
            reading.unread.update(str(token) for token in chunk[1:4] if token.type == "NAME")
    return reading


def _split(tokens: Chunk) -> list[Chunk]:
    """Cuts before every keyword that begins a declaration, and before what was meant for one."""
    chunks: list[Chunk] = [[]]
    braces = 0
    for before, token, after in zip([None, *tokens], tokens, [*tokens[1:], None], strict=False):
        braces += (token.type == "LBRACE") - (token.type == "RBRACE")
        inside = braces > 0 and token.column != 1 and _is_inner(chunks[-1], token)
        begins = before is not None and (_begins(before, token) or _seems_to_begin(token, after))
        if begins and not inside:
            chunks.append([])
            braces = 0
        chunks[-1].append(token)
    return [chunk for chunk in chunks if chunk]


def _is_inner(chunk: Chunk, token: Token) -> bool:
    """A `let` where no declaration can stand, the `route` of a test's misspelled `expect`."""
    return token.type == "LET" or (token.type == "ROUTE" and chunk[0].type == "TEST")


def _begins(before: Token, token: Token) -> bool:
    new_line = before.end_line != token.line and before.type != "EXPECT"
    return token.type in DECLARATIONS and (new_line or before.type in _MAY_END)


def _seems_to_begin(token: Token, after: Token | None) -> bool:
    """A misspelled keyword in the first column, followed by what no setting is followed by."""
    heads = token.column == 1 and after is not None and after.type in ("NAME", "TEXT", "LBRACE")
    return heads and misspelled_keyword(token, DECLARATIONS) is not None


def _check_head(source: Source, chunks: deque[Chunk], reading: Reading) -> None:
    """Reports a text that does not begin with its strategy."""
    first = chunks[0][0] if chunks else None
    mended = None if first is None else misspelled_keyword(first, DECLARATIONS)
    kind = mended.token.type if mended is not None else first.type if first is not None else ""
    if kind == "STRATEGY":
        return
    reading.problems.append(headless(source, first))
    if kind not in DECLARATIONS and chunks:
        chunks.popleft()


def _mend_keyword(chunk: Chunk, reading: Reading) -> None:
    keyword = misspelled_keyword(chunk[0], DECLARATIONS)
    if keyword is not None:
        reading.problems.append(keyword.problem)
        chunk[0] = keyword.token


def _touches(chunk: Chunk, lines: set[int]) -> bool:
    if not lines:
        return False
    first, last = lines_of(chunk)
    return any(first <= line <= last for line in lines)


def _read_chunk(chunk: Chunk) -> _Outcome:
    """Reads one declaration; after a mistake inside a step or test line, without that line again."""
    outcome = _Outcome()
    rest: Chunk | None = chunk
    while rest is not None and len(outcome.problems) < _MAX_PROBLEMS_PER_DECLARATION:
        failure_at = _attempt(rest, outcome)
        if failure_at is None:
            break
        rest = _without_broken_line(rest, failure_at)
    return outcome


def _attempt(chunk: Chunk, outcome: _Outcome) -> int | None:
    """Parses a declaration; the index of the token where it had to stop, None if it came through."""
    automaton = Automaton("strategy" if chunk[0].type == "STRATEGY" else "declaration")
    for index, token in enumerate(chunk):
        try:
            automaton.feed([token])
            continue
        except Stopped as stop:
            failure = Failure(chunk, index, stop)
        keyword = misspelled_keyword(token, _candidates(failure, chunk[index + 1 : index + 2]))
        if keyword is None:
            if not (outcome.problems and failure.complete):  # else what is left of a mistake
                outcome.problems.append(describe(failure))
            return None if failure.complete else index
        whole = not outcome.problems
        outcome.problems.append(keyword.problem)
        chunk[index] = keyword.token
        if failure.complete and keyword.token.type in DECLARATIONS:
            outcome.left_over = chunk[index:]
            outcome.branch = automaton.finish(chunk[index - 1]) if whole else None
            return None
        automaton.feed([keyword.token])
    try:
        branch = automaton.finish(chunk[-1])
        outcome.branch = None if outcome.problems else branch
    except Stopped as stop:
        outcome.problems.append(describe(Failure(chunk, len(chunk), stop)))
    return None


def _candidates(failure: Failure, following: Chunk) -> Set[str]:
    """Which keywords may have been meant: no keyword stands before `=`."""
    if following and following[0].type == "EQUAL":
        return frozenset()
    return failure.stop.accepts | (DECLARATIONS if failure.complete else frozenset())


def _without_broken_line(chunk: Chunk, failure_at: int) -> Chunk | None:
    """The chunk without the setting, step or test line that `failure_at` broke, or with another
    head; None if there is nothing left to read.

    A line that ends too early is noticed only at the keyword of the next one.
    """
    starts = list(_line_starts(chunk))
    begun = [start for start in starts if start < failure_at]
    if failure_at in starts and chunk[failure_at].type == "NAME":
        begun.append(failure_at)  # a setting without a sign
    if failure_at + 1 in starts and begun and str(chunk[failure_at]) == ",":
        return chunk[:failure_at] + chunk[failure_at + 1 :]
    if not begun:
        return _with_plain_head(chunk, failure_at, starts)
    begin = begun[-1]
    ends = (*(start for start in starts if start > begin), len(chunk))
    braces = (
        index for index, token in enumerate(chunk) if token.type == "RBRACE" and index > begin
    )
    return chunk[:begin] + chunk[min(ends[0], next(braces, len(chunk))) :]


def _line_starts(chunk: Chunk) -> Iterator[int]:
    """Where the settings, steps or test lines of a declaration begin."""
    kinds = _LINES.get(chunk[0].type, frozenset())
    settings = chunk[0].type in WITH_SETTINGS
    brackets = braces = 0
    for index, token in enumerate(chunk):
        brackets += (str(token) in "([") - (str(token) in ")]")
        if token.type in kinds or (
            settings and braces and not brackets and _begins_setting(chunk, index)
        ):
            yield index
        braces += str(token) == "{"


def _begins_setting(chunk: Chunk, index: int) -> bool:
    token, following = chunk[index], chunk[index + 1 : index + 2]
    signed = bool(following) and str(following[0]) in _SETTING_SIGNS
    return token.type == "NAME" and (signed or token.line != chunk[index - 1].end_line)


def _with_plain_head(chunk: Chunk, failure_at: int, starts: list[int]) -> Chunk | None:
    """The steps, or lines, of a route or test whose head is broken, behind a head without mistakes."""
    first = next((start for start in starts if start >= failure_at), None)
    if first is None or chunk[0].type not in _LINES:
        return None
    kinds = PLAIN_HEADS[chunk[0].type]
    head = [chunk[0].update(type=kind, value=text) for kind, text in kinds]
    if chunk[:failure_at] == head:
        return None  # it is this head already: what is broken is the body
    rest = chunk[first:]
    closed = any(token.type == "RBRACE" for token in rest)
    return [*head, *rest, *([] if closed else [rest[-1].update(type="RBRACE", value="}")])]
