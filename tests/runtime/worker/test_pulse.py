"""When an engine process counts as silent: frozen, or hanging in a step; and when it does not."""

import asyncio
import os
import signal
import sys
from typing import Any

import pytest

from mserve.runtime.errors import Unavailable
from mserve.runtime.worker.engine_link import EngineLink
from mserve.runtime.worker.pulse import FROZEN_S, HANGS_S, INTERVAL_S, Pulse

FROZEN = round(FROZEN_S / INTERVAL_S)


def looks(pulse: Pulse, count: int, *, beats: bool = False, stats: bool = False) -> list[str]:
    found = []
    for _ in range(count):
        if beats:
            pulse.data_received(b".")
        if stats:
            pulse.said_stats()
        found.append(pulse.look())
    return found


def test_without_a_pulse_it_is_frozen_after_two_seconds_and_back_with_the_next() -> None:
    pulse = Pulse()
    assert looks(pulse, FROZEN) == [""] * FROZEN
    assert looks(pulse, 2) == ["is frozen"] * 2
    assert looks(pulse, 1, beats=True) == [""]


def test_a_step_may_take_as_long_as_a_long_step_takes() -> None:
    pulse = Pulse()
    pulse.expect_steps(longest_s=3.0)
    most = round((HANGS_S + 12.0) / INTERVAL_S)
    assert set(looks(pulse, most, beats=True)) == {""}
    assert looks(pulse, 2, beats=True) == ["hangs in a step"] * 2
    assert looks(pulse, 1, beats=True, stats=True) == [""]


def test_before_the_steps_are_known_only_the_pulse_counts() -> None:
    assert set(looks(Pulse(), 1000, beats=True)) == {""}


BEATS = """
import os, sys, time
from mserve.runtime.worker.pulse import start_pulse
start_pulse(int(sys.argv[1]))
print("up", flush=True)
time.sleep(60)
"""


async def heard(read_end: int, within_s: float) -> bool:
    """Whether a byte comes."""
    os.set_blocking(read_end, False)
    for _ in range(round(within_s / 0.05)):
        try:
            if os.read(read_end, 1 << 16):
                return True
        except BlockingIOError:
            await asyncio.sleep(0.05)
    return False


def test_a_process_that_is_stopped_has_no_pulse() -> None:
    async def main() -> None:
        read_end, write_end = os.pipe()
        argv = (sys.executable, "-c", BEATS, str(write_end))
        process = await asyncio.create_subprocess_exec(
            *argv, pass_fds=[write_end], stdout=asyncio.subprocess.PIPE
        )
        os.close(write_end)
        try:
            assert process.stdout is not None
            await process.stdout.readline()
            assert await heard(read_end, 2)
            process.send_signal(signal.SIGSTOP)
            await heard(read_end, 0.1)
            assert not await heard(read_end, 1)
            process.send_signal(signal.SIGCONT)
            assert await heard(read_end, 2)
        finally:
            process.kill()
            await process.wait()
            os.close(read_end)

    asyncio.run(main())


def test_silence_ends_what_waits_and_refuses_what_comes(calls: Any, monkeypatch: Any) -> None:
    async def main() -> None:
        monkeypatch.setattr("mserve.runtime.worker.engine_link.INTERVAL_S", 0.001)
        link, changes = EngineLink(lambda blocks: None), []
        events: asyncio.Queue[Any] = asyncio.Queue()
        link._queues["p/0"] = {events}
        watching = asyncio.create_task(link.watch(lambda: changes.append(link.silence)))
        async with asyncio.timeout(5):
            assert await events.get() is None
        assert changes == ["is frozen"]
        call = calls.of("q", (1, 2), calls.generate("s", 0, 4))
        with pytest.raises(Unavailable, match="engine process is frozen"):
            await link.submit(call, held=True)
        link._pulse.data_received(b".")
        async with asyncio.timeout(5):
            while changes != ["is frozen", ""]:
                link._pulse.data_received(b".")
                await asyncio.sleep(0.001)
        watching.cancel()

    asyncio.run(main())
