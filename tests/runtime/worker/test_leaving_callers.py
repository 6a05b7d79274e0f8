"""A caller that leaves before the engine has taken its call: the plan must not run on without anyone."""

import asyncio
from typing import Any

import pytest

from mserve.runtime.messages import Problem
from mserve.runtime.worker import ipc
from mserve.runtime.worker.engine_link import EngineLink


class Engine:
    """The other end: what was written to it."""

    def __init__(self) -> None:
        self.commands: list[ipc.Command] = []

    def write(self, data: bytes) -> None:
        for body in ipc.split_frames(bytearray(data)):
            self.commands += ipc.decode_commands(body)


async def leave_while_submitting(call: Any, reply: Any) -> list[ipc.Command]:
    """What the engine is told when the caller leaves before it has answered `reply(1)`."""
    link, engine = EngineLink(lambda blocks: None), Engine()
    link._writer = engine  # type: ignore[assignment]
    submitting = asyncio.create_task(link.submit(call, held=True))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    submitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await submitting
    link._dispatch(reply(1))
    for _ in range(3):
        await asyncio.sleep(0)
    return engine.commands


def test_a_plan_that_was_taken_for_nobody_is_cancelled(calls: Any) -> None:
    call = calls.of("p", (1, 2, 3), calls.generate("s", 0, 4))
    commands = asyncio.run(leave_while_submitting(call, ipc.Accepted))
    assert [type(command) for command in commands] == [ipc.Submit, ipc.Cancel]


def test_a_plan_that_was_refused_is_left_alone(calls: Any) -> None:
    """Its key may be that of another call, whose plan goes on."""

    def refuse(number: int) -> ipc.Refused:
        return ipc.Refused(number, Problem("conflict_error", 409, "twice", False))

    call = calls.of("p", (1, 2, 3), calls.generate("s", 0, 4))
    commands = asyncio.run(leave_while_submitting(call, refuse))
    assert [type(command) for command in commands] == [ipc.Submit]
