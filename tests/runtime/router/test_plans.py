"""What a request's engines computed of its prompt, as the router can know it."""

from typing import Any, Literal

import pytest

from mserve.compiler.plan import Decision, Plan, PrepRecv, RemoteSend, StartGenerate, Step
from mserve.compiler.protocol import AnswerState
from mserve.runtime.messages import Finish, StepReport
from mserve.runtime.router.plans import AttemptRecord, Cached, PlanRecord, StepRecord, plan_json

NUM_PROMPT = 100
GENERATE = StartGenerate("s1", "workers-0", 0)
SPLIT = (
    PrepRecv("s1", "decode-0", 0, 99, "t1"),
    RemoteSend("s2", "prefill-0", 0, 99, ("t1",)),
    StartGenerate("s3", "decode-0", 99, ("t1",)),
)


def report(step: str, state: Literal["running", "done"] = "done", **counts: int) -> StepReport:
    return StepReport(step, state, 1.0, 2.0, **counts)


def attempt(*steps: Step, reports: Any = ()) -> AttemptRecord:
    plan = Plan("fake", "only", NUM_PROMPT, steps)
    record = AttemptRecord(0.0, Decision(plan, {}, ()), Cached(64, 48))
    for each in reports:
        record.note(each)
    return record


def delivered(*attempts: AttemptRecord) -> int:
    return PlanRecord("p", "r", 0.0, NUM_PROMPT, attempts=list(attempts)).delivered


def test_what_the_generating_worker_found_is_delivered() -> None:
    record = attempt(GENERATE, reports=[report("s1", "running", matched=64)])
    record.count("workers-0", Finish("stop", NUM_PROMPT, 5, 60), NUM_PROMPT, [GENERATE])
    assert delivered(record) == 60  # a preemption cost 4 tokens again


def test_what_another_worker_computed_for_it_is_not() -> None:
    record = attempt(
        *SPLIT, reports=[report("s2", computed=35, matched=64), report("s3", "running")]
    )
    record.count("decode-0", Finish("stop", NUM_PROMPT, 5, 99), NUM_PROMPT, SPLIT)
    assert delivered(record) == 100 - 35 - 1


def test_what_its_worker_computed_to_send_counts_once() -> None:
    send = RemoteSend("s1", "workers-0", 0, 40, ())
    steps = (send, StartGenerate("s2", "workers-0", 40))
    record = attempt(*steps, reports=[report("s1", computed=40), report("s2", "running")])
    record.count("workers-0", Finish("stop", NUM_PROMPT, 5, 0), NUM_PROMPT, steps)
    assert delivered(record) == 0
    assert [step.computed(NUM_PROMPT) for step in record.steps.values()] == [40, 60]


def test_the_answer_so_far_is_no_prompt() -> None:
    """A second attempt computes it with the prompt."""
    broken = attempt(GENERATE, reports=[report("s1", "running", matched=96)])
    again = attempt(GENERATE, reports=[report("s1", "running", matched=80)])
    again.count("workers-0", Finish("stop", NUM_PROMPT + 7, 5, 80), NUM_PROMPT, [GENERATE])
    assert delivered(broken, again) == 100 - 4 - 20


@pytest.mark.parametrize(
    ("step", "matched", "computed"),
    [
        (GENERATE, 64, 36),
        (StartGenerate("s1", "decode-0", 90, ("t1",)), 64, 10),
        (StartGenerate("s1", "decode-0", 90, ("t1",)), 96, 4),
        (RemoteSend("s1", "prefill-0", 20, 99, ("t1",)), 30, 49),
        (RemoteSend("s1", "prefill-0", 0, 115, ("t1",)), 96, 4),
        (PrepRecv("s1", "decode-0", 0, 99, "t1"), 0, 0),
    ],
)
def test_what_broke_off_may_have_computed_all_that_was_missing(
    step: Step, matched: int, computed: int
) -> None:
    record = StepRecord(step)
    assert record.computed(NUM_PROMPT) == 0  # it has not begun
    record.report = report("s1", "running", matched=matched)
    assert record.computed(NUM_PROMPT) == computed


def test_of_many_attempts_the_first_and_the_last_are_kept_and_all_count() -> None:
    record = PlanRecord("p", "r", 0.0, NUM_PROMPT)
    for begun in range(40):
        tried = attempt(GENERATE, reports=[report("s1", "running", matched=NUM_PROMPT - 1)])
        tried.started_s = float(begun)
        record.begin(tried)
    assert record.num_attempts == 40
    assert [each.started_s for each in record.attempts] == [0.0, *range(25, 40)]
    assert record.delivered == NUM_PROMPT - 40, "each of them computed a token"
    shown = plan_json(record)
    assert shown["num_attempts"] == 40
    assert [each["number"] for each in shown["attempts"]] == [1, *range(26, 41)]


def test_the_counts_are_those_of_the_first_plan() -> None:
    first = attempt(GENERATE)
    record = PlanRecord("p", "r", 0.0, NUM_PROMPT, attempts=[first, attempt(GENERATE)])
    first.cached = Cached(80, 48)
    assert plan_json(record)["cached"] == {"available": 80, "routed": 48, "delivered": None}
    record.state, record.finish = AnswerState.DONE, Finish("stop", NUM_PROMPT, 5, 47)
    assert plan_json(record)["cached"]["delivered"] == 47


def test_the_record_of_a_lost_step_says_how_far_it_came(kit: Any) -> None:
    cluster = kit.cluster("workers-0", "workers-1")
    cluster.workers["workers-0"].script = kit.Script(lose_after=3)
    _, router = kit.execute(cluster, kit.Strategy(kit.generate_on_first))
    first, second = plan_json(next(iter(router.plans)))["attempts"]
    (lost,), (done,) = first["steps"], second["steps"]
    assert (lost["state"], lost["generated"], done["generated"]) == ("failed", 3, 5)
    assert lost["start_ms"] <= lost["end_ms"] <= done["end_ms"]


def test_the_record_tells_what_happened(kit: Any) -> None:
    cluster = kit.cluster("prefill-0", "decode-0")
    sink, router = kit.execute(cluster, kit.Strategy(kit.split, kit.PREFILL_DECODE))
    plan = plan_json(router.plans.get(sink.plan_id))
    assert plan["state"] == "done"
    assert plan["usage"]["completion_tokens"] == 8
    (attempt,) = plan["attempts"]
    assert attempt["route"] == "only"
    assert attempt["bindings"] == {"d": "decode-0"}
    by_id = {step["id"]: step for step in attempt["steps"]}
    assert by_id["s2"]["sent_bytes"] == 39_000
    assert by_id["s2"]["worker"] == "prefill-0"
    assert all(step["state"] == "done" for step in by_id.values())
    assert 0 <= by_id["s2"]["start_ms"] <= by_id["s2"]["end_ms"] <= plan["ended_ms"] + 1
