"""Who waits, and where: what a simulation that cannot go on says of its tasks. Knows no loop."""

import asyncio
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import Any

MAX_NAMED = 5  # of tasks that wait in the same place


def describe_waits(tasks: Iterable[asyncio.Task[Any]]) -> str:
    """A line for each place, with those who wait there."""
    waiting: dict[str, list[str]] = {}
    for task in tasks:
        waiting.setdefault(_place(task), []).append(task.get_name())
    lines = [f"  {_enumerated(names)} in {place}" for place, names in waiting.items()]
    return "\n".join(lines) or "  no task is left"


def _enumerated(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} waits"
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{', '.join(names[:MAX_NAMED])}{more} wait"


def _place(task: asyncio.Task[Any]) -> str:
    """The innermost coroutine that the task waits in, after the functions on the way there."""
    names: list[str] = []
    frame: FrameType | None = None
    inner: Any = task.get_coro()
    while inner is not None:
        frame = _frame(inner) or frame
        names.append(getattr(inner, "__qualname__", type(inner).__name__))
        inner = getattr(inner, "cr_await", None) or getattr(inner, "ag_await", None)
    line = "" if frame is None else f" ({frame.f_code.co_filename}:{frame.f_lineno})"
    return " > ".join(names) + line


def _frame(awaitable: object) -> FrameType | None:
    return getattr(awaitable, "cr_frame", None) or getattr(awaitable, "ag_frame", None)
