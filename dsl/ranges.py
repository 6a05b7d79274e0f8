"""Whether the ranges of a route join: each begins at 0 or, by the same expression, where the one
above ends.

Purely by syntax: two bounds are the same if their trees are. Knows no values and no workers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mserve.dsl import syntax
from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.rules.prompt import gap_in_prompt, overlap_in_prompt, ranges_out_of_order
from mserve.dsl.source import Source
from mserve.dsl.syntax import Expr, Span

# A bound of a range: None is the beginning (as a begin) or the end (as an end) of the prompt.
Bound = Expr | None


@dataclass(frozen=True)
class _Placed:
    """One range of a route; `follows` is `rest`: it begins wherever the one above ends."""

    span: Span
    begin: Bound
    end: Bound
    follows: bool = False

    @property
    def begin_span(self) -> Span:
        return self.span if self.begin is None else self.begin.span

    @property
    def end_span(self) -> Span:
        return self.span if self.end is None else self.end.span


def check_ranges(route: syntax.Route, source: Source) -> Iterator[Diagnostic]:
    ranges = [
        _place(step.range)
        for step in route.steps
        if isinstance(step, (syntax.Compute, syntax.Reuse))
    ]
    problems = list(_joints(ranges, source))
    in_order = _reordered(ranges) if problems else None
    if in_order is not None:
        spelled = [source.slice(each.span) for each in in_order]
        yield ranges_out_of_order([each.span for each in ranges], spelled)
    else:
        yield from problems
    for step in route.steps:
        if isinstance(step, syntax.Replicate):
            copied = _place(step.range)
            if copied.follows or copied.begin is not None:
                begins = _name(copied.begin, source, "here")
                hint = "what is replicated begins at 0: write `replicate prompt to ...`"
                yield gap_in_prompt(copied.begin_span, begins, None, hint)


def _place(item: syntax.Range) -> _Placed:
    if isinstance(item, syntax.Rest):
        return _Placed(item.span, None, None, follows=True)
    return _Placed(item.span, None if _is_zero(item.begin) else item.begin, item.end)


def _is_zero(bound: Bound) -> bool:
    return isinstance(bound, syntax.Number) and bound.value == 0


def _joints(ranges: Sequence[_Placed], source: Source) -> Iterator[Diagnostic]:
    """Problems where a range meets the one above; each is judged by itself."""
    for index, current in enumerate(ranges):
        begins = _name(current.begin, source, "0")
        if index == 0:
            if current.begin is not None:
                yield gap_in_prompt(current.begin_span, begins, None, _beginning(current, source))
            continue
        above = ranges[index - 1]
        if current.follows or (current.begin is not None and current.begin == above.end):
            continue
        earlier = [each.end for each in ranges[: index - 1] if each.end is not None]
        end = above.end_span, _name(above.end, source, "the end")
        begins_inside = above.end is None or _is_below(current.begin, above.end)
        if current.begin is None or current.begin in earlier or begins_inside:
            yield overlap_in_prompt(current.begin_span, begins, end)
        else:
            yield gap_in_prompt(current.begin_span, begins, end)


def _is_below(left: Bound, right: Bound) -> bool:
    """Both are constants of one unit, and in this order."""
    if not isinstance(left, syntax.Number) or not isinstance(right, syntax.Number):
        return False
    return left.unit == right.unit and left.value < right.value


def _beginning(first: _Placed, source: Source) -> str:
    """What to write above a route's first range, which begins behind 0."""
    begin = first.begin
    if isinstance(begin, syntax.Unary):
        cut = f"tokens(prompt) - {source.slice(begin.operand.span)}"
        return f"a negative bound does not count from the end: write `prompt[{cut}:]`"
    assert begin is not None, "it begins behind 0"
    end = source.slice(begin.span)
    return f"place the beginning, too: `compute prompt[:{end}] on WORKER`, then `rest`"


def _reordered(ranges: Sequence[_Placed]) -> list[_Placed] | None:
    """The ranges in an order in which they join, if there is one."""
    left = [each for each in ranges if not each.follows]
    joined: list[_Placed] = []
    bound: Bound = None
    while left:
        following = [each for each in left if each.begin == bound]
        if not following or (joined and bound is None):
            return None
        joined.append(following[0])
        left.remove(following[0])
        bound = following[0].end
    return joined + [each for each in ranges if each.follows]


def _name(bound: Bound, source: Source, otherwise: str) -> str:
    return otherwise if bound is None else f"`{source.slice(bound.span)}`"
