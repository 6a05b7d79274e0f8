"""A correct plan passes; broken in any way, it is refused with a sentence that says why."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from mserve.compiler.intervals import Intervals
from mserve.compiler.lower import Lowering, segments_between
from mserve.compiler.passes import Draft, Handoff, Replica
from mserve.compiler.plan import (
    Commit,
    Plan,
    PrepRecv,
    Release,
    RemoteSend,
    StartGenerate,
    Step,
)
from mserve.compiler.verify import PlanError, verify_plan

CACHED = {"d": 40, "q": 0}


def rich_plan() -> Plan:
    """Three ranges on two workers, decode that moves on, a copy: every kind of step."""
    segments = segments_between("pqpd", [100, 200, 300, 400])
    draft = Draft(400, "d", segments, CACHED, Handoff("e", 409), (Replica("z", 400),))
    return Lowering().plan("s", "r", draft)


def small_plan() -> Plan:
    return Lowering().plan("s", "r", Draft(10, "d", segments_between("pd", [6, 10]), {}))


def with_step(plan: Plan, index: int, *steps: Step) -> Plan:
    return replace(plan, steps=(*plan.steps[:index], *steps, *plan.steps[index + 1 :]))


def test_correct_plans_pass() -> None:
    verify_plan(rich_plan(), CACHED)
    verify_plan(small_plan(), {})


def mutations(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """Every way to break one step of a plan; none leaves a correct one."""
    for index, step in enumerate(plan.steps):
        name = f"{step.id} {step.op}"
        yield f"{name} left out", with_step(plan, index)
        yield f"{name} twice", with_step(plan, index, step, step)
        yield (
            f"{name} twice under another name",
            with_step(plan, index, step, replace(step, id="again")),
        )
        yield f"{name} on another worker", with_step(plan, index, replace(step, worker="other"))
        for change in _changed_fields(step):
            yield f"{name} with {change}", with_step(plan, index, replace(step, **change))
        if index and not isinstance(step, PrepRecv):
            moved = (*plan.steps[:index], *plan.steps[index + 1 :])
            yield f"{name} first of all", replace(plan, steps=(step, *moved))


def _changed_fields(step: Step) -> Iterator[dict[str, Any]]:
    if isinstance(step, (PrepRecv, RemoteSend)):
        yield {"begin": step.begin - 1}
        yield {"begin": step.end}
        yield {"end": step.end + 1}
        yield {"end": step.end - 1}
    if isinstance(step, RemoteSend):
        yield {"to": (*step.to, "unknown")}
        yield {"to": step.to * 2}
        yield {"begin": step.begin + 50}
    if isinstance(step, RemoteSend | StartGenerate):
        yield {"uses": (*step.uses, "unknown")}
        if step.uses:
            yield {"uses": step.uses[1:]}
            yield {"uses": step.uses * 2}
    if isinstance(step, StartGenerate):
        yield {"begin": step.begin + 1000}
        yield {"max_tokens": None if step.max_tokens else 5}
        yield {"max_tokens": 0}
    if isinstance(step, PrepRecv | Commit):
        yield {"ticket": "unknown"}
    if step.after:
        yield {"after": ("unknown",)}
        yield {"after": ()}
    yield {"after": (*step.after, step.id)}


STILL_CORRECT = {
    "s8 remote_send with {'after': ()}",  # s3 -> t1 -> s6 -> t3 -> s8 says the same
    "s14 commit with {'after': ()}",  # a ticket's end waits for its sends in any case
    "s2 remote_send on another worker",  # whoever computes [0, 6) from nothing may
}


@pytest.mark.parametrize("make", [rich_plan, small_plan])
def test_every_mutation_is_caught(make: Callable[[], Plan]) -> None:
    plan = make()
    survivors = []
    for what, broken in mutations(plan):
        try:
            verify_plan(broken, CACHED if make is rich_plan else {})
        except PlanError:
            continue
        survivors.append(what)
    assert set(survivors) <= STILL_CORRECT


def test_the_sentence_says_what_is_wrong() -> None:
    plan = small_plan()
    prep, send, start = plan.steps
    cases = {
        "ticket 't2' is never used, committed or released": (
            *plan.steps,
            PrepRecv("s4", "x", 0, 6, "t2"),
        ),
        "step 's3' needs [0, 6) under 't1', of which only nothing was sent": (prep, start),
        "step 's2' sends to its own worker": (prep, replace(send, worker="d"), start),
        "a plan generates once or twice, not 0 times": (prep, send),
        "two steps are called 's2'": (prep, send, send, start),
        "step 's2' has the range [0, 60), not within [0, 10)": (
            prep,
            RemoteSend("s2", "p", 0, 60, ("t1",)),
            start,
        ),
    }
    for sentence, steps in cases.items():
        with pytest.raises(PlanError) as raised:
            verify_plan(replace(plan, steps=steps), {})
        assert sentence in str(raised.value)


def test_two_workers_must_not_compute_the_same_tokens() -> None:
    steps = (
        PrepRecv("s1", "d", 0, 6, "t1"),
        RemoteSend("s2", "p", 0, 6, ("t1",)),
        RemoteSend("s3", "q", 0, 6, ()),
        StartGenerate("s4", "d", 6, ("t1",)),
    )
    with pytest.raises(PlanError, match="another step computes"):
        verify_plan(Plan("s", "r", 10, steps), {})
    verify_plan(Plan("s", "r", 10, steps), {"q": 6})


def test_nothing_but_copies_follows_the_first_token() -> None:
    plan = small_plan()
    late = (
        PrepRecv("s4", "x", 0, 6, "t2"),
        RemoteSend("s5", "p", 0, 6, ("t2",), (), ("s3.first_token",)),
        Commit("s6", "x", "t2", ("s5",)),
    )
    with pytest.raises(PlanError, match="follows a first token it does not belong to"):
        verify_plan(replace(plan, steps=(*plan.steps, *late)), {})


def test_a_ticket_may_be_given_back_before_it_is_whole() -> None:
    plan = small_plan()
    unused = (PrepRecv("s4", "d", 0, 3, "t2"), Release("s5", "d", "t2"))
    verify_plan(replace(plan, steps=(*plan.steps, *unused)), {})


def test_what_the_receiver_has_need_not_be_sent() -> None:
    steps = (
        PrepRecv("s1", "d", 0, 6, "t1"),
        RemoteSend("s2", "p", 4, 6, ("t1",)),
        StartGenerate("s3", "d", 6, ("t1",)),
    )
    verify_plan(Plan("s", "r", 10, steps), {"d": 4, "p": 4})
    with pytest.raises(PlanError, match="'t1', of which only"):
        verify_plan(Plan("s", "r", 10, steps), {"d": 3, "p": 4})
    with pytest.raises(PlanError, match="which has only"):
        verify_plan(Plan("s", "r", 10, steps), {"d": 4, "p": 3})


def test_a_prompt_of_one_token() -> None:
    verify_plan(Plan("s", "r", 1, (StartGenerate("s1", "d", 0),)), {})
    with pytest.raises(PlanError, match="at least one token"):
        verify_plan(Plan("s", "r", 0, (StartGenerate("s1", "d", 0),)), {})


def test_intervals() -> None:
    has = Intervals()
    for begin, end in [(5, 7), (0, 2), (2, 3), (7, 7), (9, 12), (6, 10)]:
        has.add(begin, end)
    assert has.ranges == [(0, 3), (5, 12)]
    assert has.missing(1, 14) == [(3, 5), (12, 14)]
    assert has.covers(5, 12)
    assert not has.covers(2, 6)
    assert has.covers(4, 4)
    assert has.overlaps(2, 5)
    assert not has.overlaps(3, 5)
    assert str(has) == "[0, 3), [5, 12)"
    assert str(Intervals()) == "nothing"
