"""The executor against a cluster in one process: dispatch, resumption, cancelling, bookkeeping."""

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from mserve.compiler.plan import (
    Commit,
    LimitsSpec,
    PrepRecv,
    RemoteSend,
    StartGenerate,
    Step,
)
from mserve.compiler.protocol import AnswerState, StepState
from mserve.runtime.chunks import chunk
from mserve.runtime.errors import (
    EngineFailure,
    Unavailable,
    WorkerLost,
)
from mserve.runtime.messages import RemoteSendCall, Render, StartGenerateCall, unpack_tokens
from mserve.runtime.router.client import InProcessClient


def test_answers_with_the_workers_tokens(kit: Any) -> None:
    sink, router = kit.execute(kit.cluster("workers-0"), kit.Strategy(kit.generate_on_first))
    assert sink.generated == kit.expected_tokens(kit.PROMPT, 8)
    assert (sink.finished.prompt_tokens, sink.finished.completion_tokens) == (40, 8)
    assert kit.idle(router)


def test_a_split_plan_is_one_call_per_worker_with_the_receivers_address(kit: Any) -> None:
    cluster = kit.cluster("prefill-0", "decode-0")
    sink, router = kit.execute(cluster, kit.Strategy(kit.split, kit.PREFILL_DECODE))
    (send_call,) = cluster.workers["prefill-0"].calls
    (decode_call,) = cluster.workers["decode-0"].calls
    (send,) = send_call.steps
    assert isinstance(send, RemoteSendCall)
    (receiver,) = send.to
    assert receiver.ticket == f"{sink.plan_id}.0.t1" == decode_call.steps[0].ticket
    assert receiver.address == b"decode-0"
    assert receiver.incarnation == decode_call.incarnation == "decode-0.1"
    assert receiver.fingerprint == cluster.workers["decode-0"].info.layout.fingerprint
    assert sink.generated == kit.expected_tokens(kit.PROMPT, 8)
    assert kit.idle(router)


def test_what_another_worker_computed_for_the_plan_is_not_cached(kit: Any) -> None:
    cluster = kit.cluster("prefill-0", "decode-0")
    sink, _ = kit.execute(cluster, kit.Strategy(kit.split, kit.PREFILL_DECODE))
    assert sink.finished.cached_tokens == 0


@pytest.mark.parametrize("lose_after", [0, 1, 7])
def test_a_lost_worker_leaves_no_gap_and_no_duplicate(kit: Any, lose_after: int) -> None:
    cluster = kit.cluster("workers-0", "workers-1")
    cluster.workers["workers-0"].script = kit.Script(lose_after=lose_after)
    sink, router = kit.execute(cluster, kit.Strategy(kit.generate_on_first))
    assert sink.generated == kit.expected_tokens(kit.PROMPT, 8)
    assert sink.finished.completion_tokens == 8
    assert sink.finished.prompt_tokens == 40
    (call,) = cluster.workers["workers-1"].calls
    assert call.attempt == 1
    assert list(unpack_tokens(call.tokens)) == [*kit.PROMPT, *sink.generated[:lose_after]]
    assert call.steps[0].sampling.max_tokens == 8 - lose_after
    assert call.steps[0].render.first == (lose_after == 0)
    assert kit.idle(router)


def test_min_tokens_count_from_the_answers_start(kit: Any) -> None:
    cluster = kit.cluster("workers-0", "workers-1")
    cluster.workers["workers-0"].script = kit.Script(lose_after=3)
    request = kit.request(max_tokens=8, min_tokens=5, seed=7)
    kit.execute(cluster, kit.Strategy(kit.generate_on_first), request)
    sampling = cluster.workers["workers-1"].calls[0].steps[0].sampling
    assert (sampling.min_tokens, sampling.seed) == (2, 7)


def test_a_worker_lost_after_its_last_token_ends_the_answer(kit: Any) -> None:
    cluster = kit.cluster("workers-0", "workers-1")
    worker = cluster.workers["workers-0"]

    async def serve(info: Any, call: Any) -> Any:
        async for frame in cluster.serve(info, call):
            if frame.kind == 3:
                raise WorkerLost("lost before it said that it was done")
            yield frame

    strategy = kit.Strategy(kit.generate_on_first)
    sink, _ = kit.execute(cluster, strategy, client=InProcessClient(serve))
    assert sink.generated == kit.expected_tokens(kit.PROMPT, 8)
    assert sink.finished.reason == "length"
    assert len(worker.calls) == 1
    assert not cluster.workers["workers-1"].calls


def test_an_answer_whose_text_has_ended_is_not_taken_up_again(kit: Any) -> None:
    """The worker found a stop string, said so in the stream, and died before its last frame."""
    cluster = kit.cluster("workers-0", "workers-1")
    end = chunk(Render("completion"), "the end", "stop")

    async def serve(info: Any, call: Any) -> Any:
        cluster.workers[info.name].calls.append(call)
        yield kit.tokens_frame(5, end.decode())
        raise WorkerLost("lost")

    request = replace(kit.request(), render=Render("completion"))
    strategy = kit.Strategy(kit.generate_on_first)
    sink, _ = kit.execute(cluster, strategy, request, client=InProcessClient(serve))
    assert (sink.finished.reason, sink.finished.completion_tokens) == ("stop", 1)
    assert not cluster.workers["workers-1"].calls


def test_a_lost_prefill_worker_cancels_the_decode_worker_and_plans_anew(kit: Any) -> None:
    cluster = kit.cluster("prefill-0", "prefill-1", "decode-0")
    cluster.workers["prefill-0"].script = kit.Script(lose_after=0)
    sink, router = kit.execute(cluster, kit.Strategy(kit.split, kit.PREFILL_DECODE))
    assert sink.generated == kit.expected_tokens(kit.PROMPT, 8)
    assert cluster.workers["decode-0"].cancelled == 1
    assert len(cluster.workers["prefill-1"].calls) == 1
    assert kit.idle(router)
    (record,) = router.plans
    first, second = record.attempts
    assert first.steps["s2"].state is StepState.FAILED
    assert first.steps["s3"].state is StepState.CANCELLED
    assert {step.state for step in second.steps.values()} == {StepState.DONE}


def test_no_token_in_time_is_unavailable_and_cancels(kit: Any) -> None:
    cluster = kit.cluster("workers-0")
    worker = cluster.workers["workers-0"]
    worker.script = kit.Script(hang_after=0)
    strategy = kit.Strategy(kit.generate_on_first, limits=LimitsSpec(0.05, 2))
    with pytest.raises(Unavailable, match="No token came"):
        kit.execute(cluster, strategy)
    assert (worker.running, worker.cancelled) == (0, 1)


def test_once_it_streams_an_answer_may_take_longer_than_the_timeout(kit: Any) -> None:
    cluster = kit.cluster("workers-0")
    cluster.token_delay_s = 0.03
    strategy = kit.Strategy(kit.generate_on_first, limits=LimitsSpec(0.1, 0))
    sink, _ = kit.execute(cluster, strategy)
    assert sink.generated == kit.expected_tokens(kit.PROMPT, 8)


def test_a_frozen_worker_is_left_when_the_registry_loses_it(kit: Any) -> None:
    cluster = kit.cluster("workers-0", "workers-1")
    frozen = cluster.workers["workers-0"]
    frozen.script = kit.Script(hang_after=3)
    sink = kit.Collected()
    sink.on_tokens = lambda: len(sink.payloads) == 3 and cluster.workers.pop("workers-0", None)
    sink, router = kit.execute(cluster, kit.Strategy(kit.generate_on_first), sink=sink)
    assert sink.generated == kit.expected_tokens(kit.PROMPT, 8)
    assert frozen.cancelled == 1
    assert kit.idle(router)


def test_cancelling_the_task_cancels_every_call(kit: Any) -> None:
    async def main() -> Any:
        cluster = kit.cluster("prefill-0", "decode-0")
        cluster.workers["prefill-0"].script = kit.Script(hang_after=0)
        router = kit.router(cluster, kit.Strategy(kit.split, kit.PREFILL_DECODE))
        async with router.running():
            execute = router.executor.execute(kit.request(), kit.Collected())
            task = asyncio.create_task(execute)
            workers = cluster.workers.values()
            await kit.until(lambda: all(worker.running for worker in workers))
            assert not kit.idle(router)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return cluster, router

    cluster, router = asyncio.run(main())
    assert [worker.running for worker in cluster.workers.values()] == [0, 0]
    assert kit.idle(router)
    (record,) = router.plans
    assert record.state == "cancelled"
    states = {step.state for step in record.attempts[0].steps.values()}
    assert StepState.RUNNING not in states
    assert StepState.PENDING not in states


def handoff(view: Any, after_tokens: int) -> list[Step]:
    """The first worker begins the answer, the second goes on with it."""
    first, second = view.workers("workers")
    end = view.num_tokens + after_tokens - 1
    return [
        StartGenerate("s1", first, 0, max_tokens=after_tokens),
        PrepRecv("s2", second, 0, end, "t1"),
        RemoteSend("s3", first, 0, end, ("t1",), (), ("s1.first_token",)),
        StartGenerate("s4", second, end, ("t1",), None, ("s1",)),
    ]


def test_a_handoff_goes_on_with_the_tokens_so_far(kit: Any) -> None:
    cluster = kit.cluster("workers-0", "workers-1")
    sink, router = kit.execute(cluster, kit.Strategy(partial(handoff, after_tokens=3)))
    assert sink.generated == kit.expected_tokens(kit.PROMPT, 8)
    assert sink.finished.completion_tokens == 8
    first, send = cluster.workers["workers-0"].calls
    (second,) = cluster.workers["workers-1"].calls
    assert (first.attempt, send.attempt, second.attempt) == (0, 1, 1)
    assert first.steps[0].render.last is False
    assert second.steps[1].render.last is True
    assert len(second.tokens) // 4 == 43
    assert {step.state for step in router.plans.get(sink.plan_id).attempts[0].steps.values()} == {
        StepState.DONE
    }


def test_an_answer_that_ends_before_the_handoff_needs_no_second_worker(kit: Any) -> None:
    cluster = kit.cluster("workers-0", "workers-1")
    sink, _ = kit.execute(cluster, kit.Strategy(partial(handoff, after_tokens=10)))
    assert sink.generated == kit.expected_tokens(kit.PROMPT, 8)
    assert cluster.workers["workers-0"].calls[0].steps[0].render.last is True
    assert not cluster.workers["workers-1"].calls


@pytest.mark.parametrize("fails", [False, True])
def test_a_copy_runs_after_the_answer_and_never_touches_it(kit: Any, fails: bool) -> None:
    def replicate(view: Any) -> Any:
        first, second = view.workers("workers")
        return [
            StartGenerate("s1", first, 0),
            PrepRecv("s2", second, 0, 32, "t1"),
            RemoteSend("s3", first, 0, 32, ("t1",), (), ("s1.first_token",)),
            Commit("s4", second, "t1", ("s3",)),
        ]

    async def main() -> Any:
        cluster = kit.cluster("workers-0", "workers-1")
        if fails:
            cluster.workers["workers-1"].script = kit.Script(refuse=EngineFailure("no"))
        router = kit.router(cluster, kit.Strategy(replicate))
        sink = kit.Collected()
        async with router.running():
            await router.executor.execute(kit.request(), sink)
            record = router.plans.get(sink.plan_id)
            assert record is not None
            steps = record.attempts[0].steps
            open_states = (StepState.PENDING, StepState.RUNNING)
            await kit.until(lambda: steps["s4"].state not in open_states)
        return sink, steps

    sink, steps = asyncio.run(main())
    assert sink.generated == kit.expected_tokens(kit.PROMPT, 8)
    assert (steps["s4"].state is StepState.DONE) == (not fails)


def test_only_the_generating_worker_gets_the_sampling(kit: Any) -> None:
    cluster = kit.cluster("prefill-0", "decode-0")
    kit.execute(cluster, kit.Strategy(kit.split, kit.PREFILL_DECODE))
    steps = [step for call in cluster.workers["prefill-0"].calls for step in call.steps]
    assert not any(isinstance(step, StartGenerateCall) for step in steps)


def test_a_call_that_fails_after_the_answer_ends_the_others(kit: Any) -> None:
    cluster = kit.cluster("prefill-0", "prefill-1", "decode-0")
    cluster.workers["prefill-0"].script = kit.Script(fail_late=WorkerLost("the receiver is gone"))
    cluster.workers["prefill-1"].script = kit.Script(hang_after=0)

    def steps(view: Any) -> Any:
        return [*kit.split(view), RemoteSend("s4", "prefill-1", 0, 4, ())]

    sink, router = kit.execute(cluster, kit.Strategy(steps, kit.PREFILL_DECODE))
    assert sink.generated == kit.expected_tokens(kit.PROMPT, 8)
    assert sink.finished is not None
    assert cluster.workers["prefill-1"].cancelled == 1
    assert kit.idle(router)
    (record,) = router.plans
    assert record.state is AnswerState.DONE
    (attempt,) = record.attempts
    assert attempt.steps["s2"].state is StepState.FAILED
    assert attempt.steps["s4"].state is StepState.CANCELLED
