"""Children that come up, die, hang and refuse to go, as tiny real processes."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mserve.runtime.cluster.launch import Child, ChildExit, Supervisor, answers_ok, free_port
from mserve.runtime.errors import ConfigError

PYTHON = (sys.executable, "-ISc")
FOREVER = "import time; time.sleep(60)"
IGNORES_SIGTERM = f"import signal; signal.signal(15, signal.SIG_IGN); print('up'); {FOREVER}"


def python(name: str, code: str, **options: object) -> Child:
    return Child(name, (*PYTHON, code), **options)  # type: ignore[arg-type]


def touches(path: Path, then: str) -> str:
    return f"open({str(path)!r}, 'w').close(); {then}"


def exists(path: Path) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return await asyncio.to_thread(path.exists)

    return ready


def is_alive(pid: int) -> bool:
    """Not as a zombie, which a killed grandchild may be for a while."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_gone(*pids: int, within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, f"One of {pids} is still alive."
        time.sleep(0.01)


def test_starts_when_ready_and_stops_all(tmp_path: Path) -> None:
    async def main() -> list[int]:
        async with Supervisor() as supervisor:
            flags = [tmp_path / "a", tmp_path / "b"]
            await supervisor.start(
                [python(flag.name, touches(flag, FOREVER), ready=exists(flag)) for flag in flags]
            )
            assert all(flag.exists() for flag in flags)
            return [supervisor.pid("a"), supervisor.pid("b")]

    began = time.monotonic()
    wait_gone(*asyncio.run(main()), within_s=0)
    assert time.monotonic() - began < 4  # by SIGTERM, not after the grace period


def test_ready_by_http() -> None:
    port = free_port()
    server = f"""
import http.server
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == '/ready' else 503)
        self.end_headers()
http.server.HTTPServer(('127.0.0.1', {port}), Ready).serve_forever()
"""

    async def main() -> None:
        url = f"http://127.0.0.1:{port}"
        assert not await answers_ok(f"{url}/ready")
        async with Supervisor() as supervisor:
            await supervisor.start([python("w", server, ready=f"{url}/ready")])
            assert await answers_ok(f"{url}/ready")
            assert not await answers_ok(f"{url}/other")

    asyncio.run(main())


def test_one_that_dies_at_start_takes_the_others_with_it(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    dies = "print('no such model', flush=True); import sys; sys.exit('Error: out of luck')"

    async def pid_is_there() -> bool:
        return pid_file.exists() and pid_file.read_text() != ""

    async def main() -> None:
        supervisor = Supervisor()
        path = repr(str(pid_file))
        writes_pid = f"import os; open({path}, 'w').write(str(os.getpid())); {FOREVER}"
        waits = f"import os, time\nwhile not os.path.exists({path}): time.sleep(0.01)\n"
        await supervisor.start(
            [
                python("decode-0", f"{waits}time.sleep(0.1); {dies}", ready=never),
                python("decode-1", writes_pid, ready=pid_is_there),
            ]
        )

    with pytest.raises(ConfigError) as caught:
        asyncio.run(main())
    assert str(caught.value) == (
        "Worker decode-0 could not start (exit code 1). Last lines:\n"
        "no such model\nError: out of luck"
    )
    wait_gone(int(pid_file.read_text()), within_s=0)


async def never() -> bool:
    return False


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110  (another process makes it true)
        await asyncio.sleep(0.01)


def test_one_that_is_never_ready(tmp_path: Path) -> None:
    async def main() -> None:
        await Supervisor().start([python("w-0", FOREVER, ready=never)], timeout_s=0.2)

    with pytest.raises(ConfigError, match=r"w-0 was not ready within 0.2 s.*\n.it wrote nothing"):
        asyncio.run(main())


def test_a_program_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match=r"Worker w-0 could not start: .*No such file"):
        asyncio.run(Supervisor().start([Child("w-0", ["/no/such/program"])]))


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    async def main() -> int:
        flag = tmp_path / "flag"
        code = IGNORES_SIGTERM.replace("print('up')", touches(flag, "pass"))
        async with Supervisor(grace_s=0.2) as supervisor:
            await supervisor.start([python("w-0", code, ready=exists(flag))])
            return supervisor.pid("w-0")

    wait_gone(asyncio.run(main()), within_s=0)


def test_a_death_while_serving_is_reported_once_with_its_last_lines(tmp_path: Path) -> None:
    flag = tmp_path / "flag"

    async def main() -> list[ChildExit]:
        exits: list[ChildExit] = []
        reported = asyncio.Event()

        def on_exit(child: ChildExit) -> None:
            exits.append(child)
            reported.set()

        async with Supervisor(on_exit) as supervisor:
            talks = f"for n in range(99): print('line', n, flush=True)\n{touches(flag, FOREVER)}"
            talker = python("w-0", talks, ready=exists(flag))
            await supervisor.start([talker, python("w-1", FOREVER)])
            os.kill(supervisor.pid("w-0"), signal.SIGKILL)
            await asyncio.wait_for(reported.wait(), 5)
            await supervisor.start([python("w-0", FOREVER)])  # the name is free again
        return exits

    (exit_,) = asyncio.run(main())
    assert (exit_.name, exit_.code) == ("w-0", -signal.SIGKILL)
    assert exit_.last_lines == [f"line {number}" for number in range(49, 99)]


def test_grandchildren_go_with_their_parent(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    forks = f"""
import subprocess, sys, os
child = subprocess.Popen([sys.executable, '-ISc', {FOREVER!r}])
open({str(tmp_path / "draft")!r}, 'w').write(str(child.pid))
os.rename({str(tmp_path / "draft")!r}, {str(pid_file)!r})
sys.exit(3)
"""

    async def main() -> ChildExit:
        exited: asyncio.Future[ChildExit] = asyncio.get_running_loop().create_future()
        async with Supervisor(exited.set_result) as supervisor:
            await supervisor.start([python("w-0", forks)])
            return await asyncio.wait_for(exited, 5)

    assert asyncio.run(main()).code == 3
    wait_gone(int(pid_file.read_text()))


def test_output_goes_to_a_file_too(tmp_path: Path) -> None:
    log = tmp_path / "w-0.log"

    async def main() -> None:
        exited: asyncio.Future[ChildExit] = asyncio.get_running_loop().create_future()
        async with Supervisor(exited.set_result) as supervisor:
            code = "import os; print('hello', os.environ['WHO'])"
            await supervisor.start([python("w-0", code, log=log, env={"WHO": "world"})])
            await asyncio.wait_for(exited, 5)

    asyncio.run(main())
    assert log.read_text() == "hello world\n"


def test_cancelled_while_starting_leaves_nobody(tmp_path: Path) -> None:
    async def main() -> int:
        flag = tmp_path / "flag"
        supervisor = Supervisor(grace_s=0.2)
        code = IGNORES_SIGTERM.replace("print('up')", touches(flag, "pass"))
        start = asyncio.create_task(supervisor.start([python("w-0", code, ready=never)]))
        async with asyncio.timeout(5):
            await until(flag.exists)
        pid = supervisor.pid("w-0")
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        return pid

    wait_gone(asyncio.run(main()), within_s=0)


PARENT = """
import asyncio, sys
from mserve.runtime.cluster.launch import Child, Supervisor
async def main():
    async with Supervisor() as supervisor:
        sleeper = [sys.executable, "-ISc", "import time; time.sleep(60)"]
        await supervisor.start([Child("a", sleeper), Child("b", sleeper)])
        print(supervisor.pid("a"), supervisor.pid("b"), flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGINT])
def test_children_do_not_outlive_us(death: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(is_alive, pids))
        parent.send_signal(death)
        wait_gone(*pids)
        parent.wait(5)
