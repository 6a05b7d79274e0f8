"""The loop's clock."""

import asyncio
import time
from collections.abc import Callable

import pytest

from mserve.runtime.clock import LoopClock


def test_call_at_runs_in_order_of_time_and_can_be_cancelled() -> None:
    async def main() -> list[str]:
        clock, calls = LoopClock(), list[str]()
        start = clock.now()
        clock.call_at(start + 0.02, lambda: calls.append("second"))
        clock.call_at(start + 0.01, lambda: calls.append("first"))
        clock.call_at(start + 0.01, lambda: calls.append("never")).cancel()
        await clock.sleep(0.05)
        assert clock.now() - start >= 0.05
        assert abs(clock.time() - time.time()) < 1
        return calls

    assert asyncio.run(main()) == ["first", "second"]


def test_every_keeps_its_phase_and_leaves_missed_ticks_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> list[float]:
        due: list[tuple[float, Callable[[], object]]] = []
        loop = asyncio.get_running_loop()
        now = [100.0]
        monkeypatch.setattr(loop, "time", lambda: now[0])
        monkeypatch.setattr(loop, "call_at", lambda when, call: due.append((when, call)))
        LoopClock().every(2.0, lambda: None)
        for late in (0.0, 0.5, 5.0, 0.0):
            when, tick = due[-1]
            now[0] = when + late
            tick()
        monkeypatch.undo()
        return [when for when, _ in due]

    assert asyncio.run(main()) == [102, 104, 106, 112, 114]  # five seconds late: 108 and 110 missed


def test_a_periodic_call_that_raises_or_cancels_itself() -> None:
    async def main() -> tuple[int, int]:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        clock, calls = LoopClock(), [0, 0]

        def raises() -> None:
            calls[0] += 1
            raise ValueError

        def cancels() -> None:
            calls[1] += 1
            own.cancel()

        other = clock.every(0.01, raises)
        own = clock.every(0.01, cancels)
        await clock.sleep(0.06)
        other.cancel()
        return calls[0], calls[1]

    raised, cancelled = asyncio.run(main())
    assert raised >= 2
    assert cancelled == 1
