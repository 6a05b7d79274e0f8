"""Reading a text with mistakes of form: one declaration after another, each step or test line alone.

Keywords are reserved, so a declaration's keyword begins one wherever it stands at a line's start.
A misspelled keyword is taken for the one it resembles. A declaration with a mistake is not given to
later checks. Words for a mistake come from mistakes.py.
"""

from collections import deque
from collections.abc import Set
from dataclasses import dataclass, field
from itertools import pairwise

from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.lalr import Automaton, Branch, Stopped, Token, lines_of
from mserve.dsl.mistakes import Failure, describe, headless, misspelled_keyword, second_strategy
from mserve.dsl.source import Source
from mserve.dsl.tokens import MAX_PROBLEMS

DECLARATIONS = frozenset(
    ["STRATEGY", "PARAM", "POOL", "LET", "DEF", "ROUTE", "ADAPT", "SLO", "LIMITS", "TEST"]
)
STATEMENTS = frozenset(["COMPUTE", "REUSE", "GENERATE", "REPLICATE", "CLUSTER", "GIVEN", "EXPECT"])
_LITERALS = frozenset(["TEXT", "TRUE", "FALSE", "NUMBER", "RATIO", "DURATION", "BYTES"])
_MAY_END = _LITERALS | {"RBRACE", "RPAR", "RSQB", "NAME", "PROMPT"}
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
    _mend_head(source, chunks, reading)
    seen_strategy = False
    while chunks and len(reading.problems) < MAX_PROBLEMS:
        chunk = chunks.popleft()
        if chunk[0].type == "STRATEGY" and seen_strategy:
            reading.problems.append(second_strategy(chunk[0]))
            continue
        seen_strategy = seen_strategy or chunk[0].type == "STRATEGY"
        outcome = _read_chunk(source, chunk)
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
            reading.unread.update(str(token) for token in chunk[1:2] if token.type == "NAME")
    return reading


def _split(tokens: Chunk) -> list[Chunk]:
    """Cuts before every keyword that begins a declaration."""
    if not tokens:
        return []
    chunks = [[tokens[0]]]
    for before, token in pairwise(tokens):
        new_line = before.end_line != token.line and before.type != "EXPECT"
        if token.type in DECLARATIONS and (new_line or before.type in _MAY_END):
            chunks.append([])
        chunks[-1].append(token)
    return chunks


def _mend_head(source: Source, chunks: deque[Chunk], reading: Reading) -> None:
    """Sees to it that the first chunk begins with a declaration's keyword."""
    first = chunks[0][0] if chunks else None
    if first is not None and first.type == "STRATEGY":
        return
    keyword = None if first is None else misspelled_keyword(first, DECLARATIONS)
    if first is not None and keyword is not None:
        reading.problems.append(keyword.problem)
        chunks[0][0] = keyword.token
        first = keyword.token
    if first is None or first.type != "STRATEGY":
        reading.problems.append(headless(source, first))
    if first is not None and first.type not in DECLARATIONS:
        chunks.popleft()


def _touches(chunk: Chunk, lines: set[int]) -> bool:
    if not lines:
        return False
    first, last = lines_of(chunk)
    return any(first <= line <= last for line in lines)


def _read_chunk(source: Source, chunk: Chunk) -> _Outcome:
    """Reads one declaration; after a mistake inside a step or test line, without that line again."""
    outcome = _Outcome()
    rest: Chunk | None = chunk
    while rest is not None and len(outcome.problems) < _MAX_PROBLEMS_PER_DECLARATION:
        failure_at = _attempt(source, rest, outcome)
        if failure_at is None:
            break
        rest = _without_broken_line(rest, failure_at)
    return outcome


def _attempt(source: Source, chunk: Chunk, outcome: _Outcome) -> int | None:
    """Parses a declaration; the index of the token where it had to stop, None if it came through."""
    automaton = Automaton("strategy" if chunk[0].type == "STRATEGY" else "declaration")
    for index, token in enumerate(chunk):
        try:
            automaton.feed([token])
            continue
        except Stopped as stop:
            failure = Failure(chunk, index, stop)
        keyword = misspelled_keyword(token, _candidates(failure))
        if keyword is None:
            outcome.problems.append(describe(failure))
            return None if failure.complete else index
        whole = not outcome.problems
        outcome.problems.append(keyword.problem)
        chunk[index] = keyword.token
        if keyword.token.type in DECLARATIONS:
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


def _candidates(failure: Failure) -> Set[str]:
    return failure.stop.accepts | (DECLARATIONS if failure.complete else frozenset())


def _without_broken_line(chunk: Chunk, failure_at: int) -> Chunk | None:
    """The chunk without the step or test line that `failure_at` broke; None if its head is broken.

    A line that ends too early is noticed only at the keyword of the next one.
    """
    starts = [index for index, token in enumerate(chunk) if token.type in STATEMENTS]
    begun = [start for start in starts if start < failure_at]
    if not begun:
        return None
    begin = begun[-1]
    ends = (*(start for start in starts if start > begin), len(chunk))
    braces = (
        index for index, token in enumerate(chunk) if token.type == "RBRACE" and index > begin
    )
    return chunk[:begin] + chunk[min(ends[0], next(braces, len(chunk))) :]
