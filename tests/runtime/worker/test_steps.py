"""The overlapped loop around a worker: transfers, ends and failures while a step is under way."""

import itertools
import random
import time
from typing import Any

import pytest

from mserve.runtime.cost import CostProfile
from mserve.runtime.engine.batching import Batch, LaunchedStep, StepOutOfMemory, StepOutput
from mserve.runtime.worker import ipc
from mserve.runtime.worker.steps import OverlappedSteps, Steps

COST = CostProfile(1e-3, 1e-5, 0.0, 1e-3, 1e-4, 1e-4, 1e9, 1024)
PROMPTS = [[seed, *((7 * i + seed * i * i) % 89 for i in range(60 + seed))] for seed in range(6)]


@pytest.mark.parametrize("seed", range(4))
def test_kv_goes_both_ways_while_others_decode_and_are_cancelled(
    overlapped_cluster: Any, calls: Any, seed: int
) -> None:
    cluster, rng = overlapped_cluster, random.Random(seed)
    a, b = cluster.add("a"), cluster.add("b", page_size=7)
    for index, prompt in enumerate(PROMPTS):
        sender, receiver = (a, b) if index % 2 else (b, a)
        plan, ticket = f"p{index}", f"t{index}"
        send = calls.remote_send("s", 0, 50, (receiver.receiver(ticket),))
        steps = (calls.prep_recv("r", 0, 50, ticket), calls.generate("g", 50, 12, ticket))
        sender.submit(calls.of(plan, prompt, send), True, cluster.now)
        receiver.submit(calls.of(plan, prompt, *steps), True, cluster.now)
        alone = calls.of(f"alone{index}", prompt[:20], calls.generate("g", 0, 20))
        sender.submit(alone, True, cluster.now)
        for _ in range(rng.randrange(9)):
            cluster.turn()
        if index == 3:
            sender.service.cancel("alone1/0", cluster.now)
    cluster.run()
    for index, prompt in enumerate(PROMPTS):
        assert (a, b)[index % 2].tokens(f"p{index}/0") == calls.reference(prompt, 12)
        answer = calls.reference(prompt[:20], 20)
        found = (b, a)[index % 2].tokens(f"alone{index}/0")
        assert found == (answer if index != 1 else answer[: len(found)])
    assert min(a.runner.num_ahead, b.runner.num_ahead) > 10
    cluster.check_clean()


def test_kv_goes_out_layer_by_layer_as_in_the_plain_loop(
    overlapped_cluster: Any, calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while another answer keeps the loop overlapped: such a step waits for the one before."""
    a, b = overlapped_cluster.add("a"), overlapped_cluster.add("b")
    a.submit(calls.of("other", PROMPTS[1], calls.generate("g", 0, 40)), True, 0.0)
    for _ in range(6):
        overlapped_cluster.turn()
    run, read = a.runner.run, a.kv.read
    running: list[int] = []  # the layer, while somebody is told of it
    sent: list[tuple[int | None, int]] = []

    def run_and_note(batch: Batch, on_layer: Any) -> StepOutput:
        def note(layer: int) -> None:
            running.append(layer)
            on_layer(layer)
            running.pop()

        output: StepOutput = run(batch, note)
        return output

    def read_and_note(pages: Any, layer: int, *rest: Any) -> None:
        sent.append((running[-1] if running else None, layer))
        read(pages, layer, *rest)

    monkeypatch.setattr(a.runner, "run", run_and_note)
    monkeypatch.setattr(a.kv, "read", read_and_note)
    send = calls.remote_send("s", 0, 50, (b.receiver("t"),))
    a.submit(calls.of("p", PROMPTS[0], send), True, 0.0)
    steps = (calls.prep_recv("r", 0, 50, "t"), calls.generate("g", 50, 4, "t"))
    b.submit(calls.of("p", PROMPTS[0], *steps), True, 0.0)
    overlapped_cluster.run()
    assert b.tokens("p/0") == calls.reference(PROMPTS[0], 4)
    assert a.tokens("other/0") == calls.reference(PROMPTS[1], 40)
    assert {(layer, layer) for layer in range(3)} <= set(sent)
    overlapped_cluster.check_clean()


class Failing:
    """A device that breaks: at the launch of its n-th step, or while it does that one."""

    def __init__(self, runner: Any, *, at_launch: int = -1, in_result: int = -1) -> None:
        self._runner = runner
        self._at_launch = at_launch
        self._in_result = in_result
        self._num_launched = 0

    def run(self, batch: Batch, on_layer: Any = None) -> StepOutput:
        output: StepOutput = self._runner.run(batch, on_layer)
        return output

    def launch(self, batch: Batch, before: LaunchedStep | None) -> LaunchedStep:
        inner = before.inner if isinstance(before, Broken) else before
        self._num_launched += 1
        if self._num_launched == self._at_launch:
            raise StepOutOfMemory("no memory")
        step = self._runner.launch(batch, inner)
        return Broken(step) if self._num_launched == self._in_result else step


class Broken:
    def __init__(self, inner: LaunchedStep) -> None:
        self.inner = inner

    def result(self) -> StepOutput:
        self.inner.result()
        raise RuntimeError("the device broke")


def serve(cluster: Any, calls: Any, **failures: int) -> Any:
    """Two prompts of one step each, at once, on a device that fails."""
    worker = cluster.add("a")
    runner = Failing(worker.runner, **failures)
    worker.steps = OverlappedSteps(worker.service, runner, COST, time.monotonic)
    for index in range(2):
        call = calls.of(f"p{index}", PROMPTS[index][:10], calls.generate("g", 0, 8))
        worker.submit(call, True, cluster.now)
    cluster.run()
    cluster.check_clean()
    return worker


@pytest.mark.parametrize("number", range(1, 8))
def test_without_memory_at_a_launch_the_newest_fails(
    overlapped_cluster: Any, calls: Any, number: int
) -> None:
    """The step before counts: its tokens are there in full."""
    worker = serve(overlapped_cluster, calls, at_launch=number)
    assert worker.tokens("p0/0") == calls.reference(PROMPTS[0][:10], 8)
    assert worker.tokens("p1/0") == calls.reference(PROMPTS[1][:10], 8)[: number - 1]
    assert [problem.kind for problem in worker.problems("p1/0")] == ["engine_error"]


@pytest.mark.parametrize("number", range(1, 8))
def test_a_device_that_breaks_ends_the_plans_of_its_step(
    overlapped_cluster: Any, calls: Any, number: int
) -> None:
    """What was launched on its result is forgotten, and the worker goes on."""
    worker = serve(overlapped_cluster, calls, in_result=number)
    for index in range(2):
        answer = calls.reference(PROMPTS[index][:10], 8)
        assert worker.tokens(f"p{index}/0") == answer[: number - 1]
        assert len(worker.problems(f"p{index}/0")) == 1
    later = calls.of("later", PROMPTS[2], calls.generate("g", 0, 8))
    worker.submit(later, True, overlapped_cluster.now)
    overlapped_cluster.run()
    assert worker.tokens("later/0") == calls.reference(PROMPTS[2], 8)
    overlapped_cluster.check_clean()


def test_steps_are_timed_from_the_end_of_the_one_before(
    overlapped_cluster: Any, calls: Any
) -> None:
    """Not from their launch, which is a step earlier."""
    worker = overlapped_cluster.add("a")
    clock = iter(range(10**6))
    cost = CostProfile(3.0, 0.0, 0.0, 3.0, 0.0, 0.0, 1e9, 1024)
    worker.steps = OverlappedSteps(worker.service, worker.runner, cost, lambda: float(next(clock)))
    worker.submit(calls.of("p", [1, 2, 3], calls.generate("g", 0, 400)), True, 0.0)
    overlapped_cluster.run()
    assert len([e for e in worker.events if isinstance(e, ipc.Token)]) == 400
    assert worker.steps.drift.decode == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("kind", [Steps, OverlappedSteps])
def test_what_steps_take_is_compared_with_what_they_should(
    overlapped_cluster: Any, calls: Any, kind: type[Steps]
) -> None:
    worker = overlapped_cluster.add("a")
    ticks = itertools.count()
    worker.steps = kind(worker.service, worker.runner, COST, lambda: next(ticks) * 0.1)
    worker.submit(calls.of("p", PROMPTS[0], calls.generate("g", 0, 8)), True, 0.0)
    overlapped_cluster.run()
    drift = worker.steps.drift
    assert drift.prefill > 1.05, "a step of milliseconds took a tenth of a second"
    assert drift.decode > 1.2
