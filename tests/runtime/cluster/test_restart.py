"""Children that die and are started again, as tiny real processes."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mserve.runtime.cluster.launch import Child, ChildExit
from mserve.runtime.cluster.restart import Restarter, RestartPolicy
from mserve.runtime.errors import ConfigError

PYTHON = (sys.executable, "-ISc")
FOREVER = "import time; time.sleep(60)"
LOG = logging.getLogger("test.restart")
QUICK = RestartPolicy(delay_s=0.01, max_delay_s=0.05, quick_s=30.0, max_quick=3)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.01)


def test_a_child_that_is_killed_comes_back_under_its_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    exits: list[ChildExit] = []

    async def on_exit(exit_: ChildExit) -> None:
        exits.append(exit_)

    async def main() -> None:
        async with Restarter(LOG, QUICK, on_exit) as restarter:
            await restarter.start([Child("w-0", (*PYTHON, FOREVER))])
            first = restarter.pid("w-0")
            os.kill(first, signal.SIGKILL)
            await until(lambda: "worker w-0 is back" in caplog.text)
            assert restarter.pid("w-0") != first
            assert [(exit_.name, exit_.pid, exit_.code) for exit_ in exits] == [("w-0", first, -9)]

    asyncio.run(main())
    assert "worker w-0 ended (signal 9" in caplog.text
    assert "worker w-0 is started again now" in caplog.text


def test_one_that_dies_again_and_again_is_given_up_with_its_last_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    count = tmp_path / "count"
    dies = f"open({str(count)!r}, 'a').write('x'); print('out of luck', flush=True); raise SystemExit(3)"

    async def main() -> None:
        async with Restarter(LOG, QUICK) as restarter:
            await restarter.start([Child("w-0", (*PYTHON, dies))])
            await until(lambda: "not started again" in caplog.text)

    asyncio.run(main())
    assert count.read_text() == "xxxx"
    assert "has died 4 times in a row and is not started again" in caplog.text
    assert caplog.text.count("worker w-0 ended (exit code 3") >= 3
    assert "out of luck" in caplog.text


def test_one_that_cannot_start_any_more_is_given_up_though_it_lived_long(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flag = tmp_path / "flag"
    code = f"""
import os, sys, time
if os.path.exists({str(flag)!r}): sys.exit('no more')
open({str(flag)!r}, 'w').close()
time.sleep(60)
"""

    async def is_up() -> bool:
        return flag.exists() and not caplog.text

    async def main() -> None:
        policy = RestartPolicy(delay_s=0.01, quick_s=0.001, max_quick=2)
        async with Restarter(LOG, policy) as restarter:
            await restarter.start([Child("w-0", (*PYTHON, code), ready=is_up)])
            os.kill(restarter.pid("w-0"), signal.SIGKILL)
            await until(lambda: "not started again" in caplog.text)

    asyncio.run(main())
    assert "no more" in caplog.text


def test_one_that_ends_by_itself_is_let_go(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        async with Restarter(LOG, QUICK) as restarter:
            await restarter.start([Child("w-0", (*PYTHON, "pass"))])
            await until(lambda: "worker w-0 has left" in caplog.text)

    asyncio.run(main())
    assert "started again" not in caplog.text


def test_the_first_start_is_not_tried_again() -> None:
    async def never() -> bool:
        return False

    async def main() -> None:
        async with Restarter(LOG, QUICK) as restarter:
            await restarter.start([Child("w-0", (*PYTHON, "raise SystemExit(4)"), ready=never)])

    with pytest.raises(ConfigError, match=r"could not start \(exit code 4\)"):
        asyncio.run(main())


def test_leaving_while_one_is_being_started_again_leaves_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flag = tmp_path / "flag"
    code = f"open({str(flag)!r}, 'a').write(str(os.getpid()) + ' '); {FOREVER}"

    async def is_first() -> bool:
        return flag.exists() and len(flag.read_text().split()) == 1

    async def main() -> None:
        async with Restarter(LOG, QUICK) as restarter:
            await restarter.start([Child("w-0", (*PYTHON, f"import os; {code}"), ready=is_first)])
            os.kill(restarter.pid("w-0"), signal.SIGKILL)
            await until(lambda: len(flag.read_text().split()) == 2)

    asyncio.run(main())
    assert not [pid for pid in flag.read_text().split() if Path(f"/proc/{pid}").exists()]


def test_restarts_wait_longer_each_time() -> None:
    policy = RestartPolicy(delay_s=1.0, max_delay_s=5.0)
    assert [policy.wait_s(number) for number in range(1, 6)] == [0, 1, 2, 4, 5]
