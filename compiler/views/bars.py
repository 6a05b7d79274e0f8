"""The predicted times of a plan as bars of characters, up to its first token."""

from collections.abc import Iterator

from mserve.compiler.describe import Labels
from mserve.compiler.plan import PrepRecv
from mserve.compiler.predict import StepTime
from mserve.compiler.views.quantities import duration
from mserve.compiler.views.subject import Chosen, Decided

_WIDTH = 40
_CRITICAL, _OTHER, _BUSY, _LATER = "#", "=", ".", ">"


def bar_lines(decided: Decided, chosen: Chosen, labels: Labels) -> Iterator[str]:
    """A bar for every step but those that only receive, by their beginning."""
    cluster, first_token_s = decided.situation.cluster, chosen.timeline.first_token_s
    yield (
        f"predicted with the cost profile {cluster.profile.name}: "
        f"first token after {duration(first_token_s)}"
    )
    rows = list(_rows(decided, chosen, labels))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for step, worker, bar, times in rows:
        yield f"  {step:<{widths[0]}}  {worker:<{widths[1]}}  {bar} {times}"
    yield from _legend("".join(bar for _, _, bar, _ in rows))


def _rows(decided: Decided, chosen: Chosen, labels: Labels) -> Iterator[tuple[str, str, str, str]]:
    """Step, worker, bar, times. A worker that is busy says so before its first step."""
    receives = {step.id for step in chosen.plan.steps if isinstance(step, PrepRecv)}
    told = set()
    for time in sorted(chosen.timeline.steps, key=lambda time: time.begin_s):
        if time.step in receives:
            continue
        worker = labels.worker(time.worker)
        busy_s = decided.situation.cluster.worker("prefill_backlog", time.worker)
        if busy_s > 0 and worker not in told:
            bar = _bar(0.0, busy_s, chosen, _BUSY)
            yield "", worker, bar, f"busy with earlier prompts for {duration(busy_s)}"
        told.add(worker)
        yield time.step, worker, _step_bar(time, chosen), _times(time)


def _times(time: StepTime) -> str:
    return f"{duration(time.begin_s)} to {duration(time.end_s)}"


def _step_bar(time: StepTime, chosen: Chosen) -> str:
    mark = _CRITICAL if time.step in chosen.critical else _OTHER
    return _bar(time.begin_s, time.end_s, chosen, mark)


def _bar(begin_s: float, end_s: float, chosen: Chosen, mark: str) -> str:
    first_token_s = chosen.timeline.first_token_s
    later = _LATER if end_s > first_token_s else " "
    if begin_s >= first_token_s > 0:
        return f"|{' ' * _WIDTH}|{later}"
    scale = _WIDTH / first_token_s if first_token_s else 0.0
    begin = min(_WIDTH - 1, round(begin_s * scale))
    end = min(_WIDTH, max(begin + 1, round(min(end_s, first_token_s) * scale)))
    return f"|{' ' * begin + mark * (end - begin):<{_WIDTH}}|{later}"


def _legend(bars: str) -> Iterator[str]:
    """What of it occurs."""
    marks = [f"{_CRITICAL} critical path: what the first token waits for"]
    marks += [f"{_OTHER} other steps"] * (_OTHER in bars)
    marks += [f"{_BUSY} earlier prompts"] * (_BUSY in bars)
    yield "  " + "   ".join(marks)
    yield f"  bars end at the first token; {_LATER} goes on after it"
