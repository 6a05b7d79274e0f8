"""The loop's clock."""

import asyncio
import time

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


def test_every_keeps_its_phase_and_leaves_missed_ticks_out() -> None:
    async def main() -> list[float]:
        clock, ticks = LoopClock(), list[float]()
        start = clock.now()

        def tick() -> None:
            ticks.append(clock.now() - start)
            if len(ticks) == 1:
                time.sleep(0.11)  # a loop that is late is what this is about

        timer = clock.every(0.04, tick)
        await clock.sleep(0.3)
        timer.cancel()
        count = len(ticks)
        await clock.sleep(0.06)
        assert len(ticks) == count
        return ticks

    ticks = asyncio.run(main())
    assert 4 <= len(ticks) <= 6  # 0.04, then none at 0.08 and 0.12 but one late, 0.16, ...
    assert all(abs(tick / 0.04 - round(tick / 0.04)) < 0.45 for tick in ticks[2:])


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
