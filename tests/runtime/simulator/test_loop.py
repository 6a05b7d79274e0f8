"""The virtual loop: time jumps, order is that of making, and what would hang ends the run."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextvars import Context
from typing import Any

import pytest

from mserve.runtime.simulator.clock import VirtualClock
from mserve.runtime.simulator.loop import Crash, Deadlock, Livelock, VirtualLoop


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, Any]]) -> Any:
    loop = VirtualLoop()
    try:
        return loop.run(main(loop))
    finally:
        loop.close()


def test_time_jumps_to_the_next_timer() -> None:
    async def main(loop: VirtualLoop) -> list[float]:
        times = []
        for delay_s in (3600.0, 0.0, 1e-9):
            await asyncio.sleep(delay_s)
            times.append(loop.time())
        return times

    assert run(main) == [3600.0, 3600.0, 3600.0 + 1e-9]


def test_equal_times_fire_in_the_order_they_were_made() -> None:
    async def main(loop: VirtualLoop) -> list[int]:
        fired: list[int] = []
        for number in range(50):
            loop.call_at(1.0, fired.append, number)
        await asyncio.sleep(2.0)
        return fired

    assert run(main) == list(range(50))


def test_a_group_is_cancelled_in_the_order_it_was_made() -> None:
    async def main(loop: VirtualLoop) -> list[int]:
        ended: list[int] = []

        async def child(number: int) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(number)

        async def group() -> None:
            async with asyncio.TaskGroup() as tasks:
                for number in range(40):
                    tasks.create_task(child(number))

        task = loop.create_task(group())
        await asyncio.sleep(1.0)
        task.cancel()
        await asyncio.wait([task])
        return ended

    assert run(main) == list(range(40))


def test_timeouts_are_virtual() -> None:
    async def main(loop: VirtualLoop) -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60.0):
                await asyncio.Event().wait()
        return loop.time()

    assert run(main) == 60.0


def test_a_deadlock_says_who_waits() -> None:
    async def forgotten() -> None:
        await asyncio.Event().wait()

    async def main(loop: VirtualLoop) -> None:
        await loop.create_task(forgotten(), name="the forgotten one")

    with pytest.raises(Deadlock, match=r"the forgotten one waits in .*forgotten > Event\.wait"):
        run(main)


def test_many_who_wait_in_the_same_place_are_one_line() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    async def main(loop: VirtualLoop) -> None:
        for number in range(9):
            loop.create_task(wait(), name=f"number {number}")
        await asyncio.Event().wait()

    with pytest.raises(Deadlock) as caught:
        run(main)
    lines = [line for line in str(caught.value).splitlines() if "number" in line]
    assert len(lines) == 1
    named = ", ".join(f"number {number}" for number in range(5))
    assert lines[0].startswith(f"  {named} and 4 more wait in ")


def test_daemons_alone_are_a_deadlock() -> None:
    async def main(loop: VirtualLoop) -> None:
        VirtualClock(loop).every(1.0, lambda: None)
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match="Only daemons are left since 0"):
        run(main)


def test_what_a_daemon_wakes_is_none() -> None:
    async def main(loop: VirtualLoop) -> float:
        woken = asyncio.Event()
        with loop.daemon():
            loop.call_at(50.0, woken.set)
        await woken.wait()
        await asyncio.sleep(500.0)
        return loop.time()

    assert run(main) == 550.0
    assert Context().run(run, main) == 550.0  # without any variable, as a command runs


def test_time_that_stands_still_is_noticed() -> None:
    async def main(loop: VirtualLoop) -> None:
        while True:  # noqa: ASYNC110 - that is the mistake
            await asyncio.sleep(0)

    with pytest.raises(Livelock):
        run(main)


def test_a_callback_that_fails_ends_the_run() -> None:
    known: dict[str, int] = {}

    async def main(loop: VirtualLoop) -> None:
        loop.call_at(1.0, known.__getitem__, "nobody")
        await asyncio.sleep(2.0)

    with pytest.raises(Crash) as caught:
        run(main)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_task_that_fails_unseen_ends_the_run() -> None:
    async def fail() -> None:
        raise KeyError("nobody looks")

    async def main(loop: VirtualLoop) -> None:
        loop.create_task(fail())
        await asyncio.sleep(2.0)

    with pytest.raises(Crash, match="never retrieved"):
        run(main)


def test_a_daemon_that_fails_ends_the_run() -> None:
    async def fail() -> None:
        await asyncio.sleep(1.0)
        raise KeyError("nobody waits for it")

    async def main(loop: VirtualLoop) -> None:
        loop.start_daemon(fail(), "the daemon")
        await asyncio.sleep(2.0)

    with pytest.raises(Crash) as caught:
        run(main)
    assert isinstance(caught.value.__cause__, KeyError)


def test_ctrl_c_ends_the_run_after_the_callback_that_it_meets() -> None:
    ended: list[str] = []

    async def child() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
            ended.append("the callback")
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("the child")

    async def main(loop: VirtualLoop) -> None:
        await loop.create_task(child())

    with pytest.raises(KeyboardInterrupt):
        run(main)
    assert ended == ["the callback", "the child"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_does_not_wait() -> None:
    ended: list[str] = []

    async def main(loop: VirtualLoop) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        ended.append("the callback")

    with pytest.raises(KeyboardInterrupt):
        run(main)
    assert ended == []


def test_a_generator_that_nobody_closes_is_closed() -> None:
    ended: list[str] = []

    async def numbers() -> AsyncGenerator[int, None]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            ended.append("the generator")

    async def main(loop: VirtualLoop) -> None:
        async for _ in numbers():
            break
        await asyncio.sleep(1.0)

    run(main)
    assert ended == ["the generator"]


def test_nothing_of_a_run_is_left() -> None:
    ended: list[str] = []

    async def child() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("child")

    async def main(loop: VirtualLoop) -> None:
        loop.create_task(child())
        await asyncio.sleep(0)

    run(main)
    assert ended == ["child"]


PROGRAM = """
import asyncio
from mserve.runtime.simulator.loop import VirtualLoop

async def child(number, ended):
    try:
        await asyncio.Event().wait()
    finally:
        ended.append(number)

async def main():
    padding, ended = [object() for _ in range({padding})], []
    tasks = [asyncio.create_task(child(number, ended)) for number in range(30)]
    await asyncio.sleep(0)
    for task in set(tasks[3::2]) | set(tasks[:9]):
        task.cancel()
    await asyncio.sleep(1)
    print(ended)

loop = VirtualLoop()
loop.run(main())
loop.close()
"""


def test_sets_of_tasks_do_not_follow_addresses_or_hash_seeds() -> None:
    outputs = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM.format(padding=padding)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for padding, seed in ((0, "1"), (12345, "2"))
    }
    assert len(outputs) == 1
