"""The engine process's loop over a runner that fails: its loop goes on, and the right ones fail."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mserve.runtime.cost import CostProfile
from mserve.runtime.engine.batching import (
    Batch,
    LaunchedStep,
    LayerHook,
    StepOutOfMemory,
    StepOutput,
)
from mserve.runtime.worker import ipc
from mserve.runtime.worker.process import EngineProcess
from mserve.runtime.worker.steps import OverlappedSteps, Steps

PROMPTS = [[index, *range(40 + index)] for index in range(5)]
NUM_TOKENS = 6


class SmallDevice:
    """A runner with memory for a few sequences at a time; more of them never fit."""

    def __init__(self, model: Any, most: int) -> None:
        self._model = model
        self._most = most
        self.largest = 0

    def run(self, batch: Batch, on_layer: LayerHook | None = None) -> StepOutput:
        self._check(batch)
        output: StepOutput = self._model.run(batch, on_layer)
        return output

    def launch(self, batch: Batch, before: LaunchedStep | None) -> LaunchedStep:
        self._check(batch)
        step: LaunchedStep = self._model.launch(batch, before)
        return step

    def _check(self, batch: Batch) -> None:
        count = len(batch.prefill) + len(batch.decode)
        self.largest = max(self.largest, count)
        if count > self._most:
            raise StepOutOfMemory(f"{count} sequences do not fit")


class Front:
    """The HTTP process's side of the socket."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._buffer = bytearray()
        self.events: list[ipc.Event] = []
        channel.settimeout(10)

    def send(self, commands: list[ipc.Command]) -> None:
        self._channel.sendall(ipc.encode_frame(commands))

    def read_until_ended(self, keys: set[str]) -> None:
        while not keys <= self.failed | self.finished:
            self._buffer += self._channel.recv(1 << 16)
            for body in ipc.split_frames(self._buffer):
                self.events += ipc.decode_events(body)

    @property
    def failed(self) -> set[str]:
        return {event.key for event in self.events if isinstance(event, ipc.Failed)}

    @property
    def finished(self) -> set[str]:
        return {event.key for event in self.events if isinstance(event, ipc.Token) and event.finish}

    def tokens(self, key: str) -> list[int]:
        return [e.token for e in self.events if isinstance(e, ipc.Token) and e.key == key]


COST = CostProfile(1e-3, 1e-5, 0.0, 1e-3, 1e-4, 1e-4, 1e9, 1024)


@contextmanager
def process(worker: Any, runner: Any, *, overlaps: bool = False) -> Iterator[Front]:
    front, back = socket.socketpair()
    kind = OverlappedSteps if overlaps else Steps
    steps = kind(worker.service, runner, COST, time.monotonic)
    loop = EngineProcess(back, worker.service, steps, worker.transport)
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield Front(front)
    finally:
        front.close()
        thread.join(10)
        back.close()
    assert not thread.is_alive(), "the loop does not end with its front"


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize(("most", "num_failed"), [(1, 4), (2, 3), (4, 2), (5, 0)])
def test_without_memory_the_newest_of_a_batch_fail(
    cluster: Any, calls: Any, most: int, num_failed: int, *, overlaps: bool
) -> None:
    """Of five that come at once, a quarter of the rows at a time, until the rest fits."""
    worker = cluster.add("a")
    runner = SmallDevice(worker.runner, most)
    submits = [
        ipc.Submit(index, calls.of(f"p{index}", prompt, calls.generate("g", 0, NUM_TOKENS)), True)
        for index, prompt in enumerate(PROMPTS)
    ]
    keys = [f"p{index}/0" for index in range(5)]
    with process(worker, runner, overlaps=overlaps) as front:
        front.send([*submits])
        front.read_until_ended(set(keys))
    assert runner.largest == 5
    assert front.failed == set(keys[5 - num_failed :])
    for key, prompt in zip(keys[: 5 - num_failed], PROMPTS, strict=False):
        assert front.tokens(key) == calls.reference(prompt, NUM_TOKENS)
    problems = [event.problem for event in front.events if isinstance(event, ipc.Failed)]
    assert all(problem.kind == "engine_error" for problem in problems)
    assert all("no memory left" in problem.detail for problem in problems)
    cluster.check_clean()
