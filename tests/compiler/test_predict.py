"""Predicted timelines: what waits for what, what overlaps, what is free."""

import pytest

from mserve.compiler.lower import Lowering, segments_between
from mserve.compiler.passes import Draft, Handoff, Replica
from mserve.compiler.plan import Plan
from mserve.compiler.predict import StepTime, Timeline, critical_path, predict
from mserve.compiler.reference import Fact, ReferenceCluster, ReferenceProfile

PROFILE = ReferenceProfile(
    prefill_base_s=0.0,
    prefill_token_s=0.001,
    prefill_pair_s=0.0,
    decode_token_s=0.01,
    transfer_base_s=0.0,
    transfer_token_s=0.0001,
)


def timeline(
    workers: str,
    bounds: list[int],
    facts: dict[Fact, object] | None = None,
) -> dict[str, StepTime]:
    made = _predict(Draft(bounds[-1], workers[-1], segments_between(workers, bounds), {}), facts)
    return {step.step: step for step in made.steps}


def _predict(draft: Draft, facts: dict[Fact, object] | None = None) -> Timeline:
    given = {("tokens", ()): draft.num_tokens, **(facts or {})}
    cached = {str(args[0]): int(str(v)) for (name, args), v in given.items() if name == "cached"}
    draft = Draft(
        draft.num_tokens, draft.generator, draft.segments, cached, draft.handoff, draft.replicas
    )
    plan: Plan = Lowering().plan("s", "r", draft)
    return predict(plan, ReferenceCluster({}, given, PROFILE))


def test_the_answer_waits_for_the_sent_range() -> None:
    steps = timeline("pd", [600, 1000])
    assert (steps["s2"].begin_s, steps["s2"].end_s) == pytest.approx((0.0, 0.6))
    assert steps["s3"].begin_s == pytest.approx(0.6)
    assert steps["s3"].end_s == pytest.approx(1.0 + 255 * 0.01)


def test_a_prompt_waits_for_the_prefill_before_it() -> None:
    steps = timeline("pd", [600, 1000], {("prefill_backlog", ("p",)): 2.0})
    assert steps["s2"].begin_s == pytest.approx(2.0)
    assert steps["s3"].begin_s == pytest.approx(2.6)
    busy = timeline("pd", [600, 1000], {("prefill_backlog", ("d",)): 2.0})
    assert busy["s2"].begin_s == 0
    assert busy["s3"].begin_s == pytest.approx(2.0)


def test_what_is_cached_is_sent_at_once_and_at_the_price_of_moving_it() -> None:
    facts: dict[Fact, object] = {
        ("cached", ("p",)): 600,
        ("prefill_backlog", ("p",)): 9.0,
    }
    steps = timeline("pd", [600, 1000], facts)
    assert (steps["s2"].begin_s, steps["s2"].end_s) == pytest.approx((0.0, 0.06))


def test_only_what_the_receiver_lacks_moves() -> None:
    facts: dict[Fact, object] = {
        ("cached", ("p",)): 600,
        ("cached", ("d",)): 500,
    }
    assert timeline("pd", [600, 1000], facts)["s2"].end_s == pytest.approx(0.01)


def test_a_slow_link_is_the_bottleneck() -> None:
    steps = timeline("pd", [600, 1000], {("transfer_time", (600, "p", "d")): 5.0})
    assert steps["s2"].end_s == pytest.approx(5.0)


def test_the_last_token_is_computed_even_if_cached() -> None:
    steps = timeline("d", [1000], {("cached", ("d",)): 1000, ("max_tokens", ()): 1})
    assert steps["s1"].end_s == pytest.approx(0.001)


def test_attention_makes_later_tokens_dearer() -> None:
    profile = ReferenceProfile()
    draft = Draft(1000, "d", segments_between("pd", [500, 1000]), {})
    plan = Lowering().plan("s", "r", draft)
    times = predict(plan, ReferenceCluster({}, {("tokens", ()): 1000}, profile))
    alone = predict(
        Lowering().plan("s", "r", Draft(1000, "d", segments_between("d", [1000]), {})),
        ReferenceCluster({}, {("tokens", ()): 1000}, profile),
    )
    assert times.first_token_s == pytest.approx(alone.first_token_s)
    first = times.steps[1].end_s
    assert first < times.first_token_s - first


def test_handoffs_and_copies_do_not_delay_the_first_token() -> None:
    draft = Draft(
        1000,
        "d",
        segments_between("pd", [600, 1000]),
        {},
        Handoff("e", 1099),
        (Replica("z", 1000),),
    )
    made = _predict(draft)
    assert made.first_token_s == pytest.approx(1.0)
    times = {step.step: step for step in made.steps}
    assert times["s5"].begin_s == pytest.approx(1.0)  # the copy, after the first token
    assert times["s9"].begin_s == pytest.approx(1.0 + 99 * 0.01)  # after 100 tokens
    assert times["s9"].end_s == pytest.approx(1.0 + 255 * 0.01)  # no token is decoded twice
    assert made.arrived_s["t2"] == pytest.approx(times["s3"].end_s)  # the answer's part comes late


def critical(
    workers: str,
    bounds: list[int],
    facts: dict[Fact, object] | None = None,
) -> tuple[str, ...]:
    draft = Draft(bounds[-1], workers[-1], segments_between(workers, bounds), {})
    plan: Plan = Lowering().plan("s", "r", draft)
    given = {("tokens", ()): draft.num_tokens, **(facts or {})}
    return critical_path(plan, predict(plan, ReferenceCluster({}, given, PROFILE)))


def test_the_first_token_waits_for_the_chain_before_it() -> None:
    assert critical("d", [1000]) == ("s1",)
    assert critical("pd", [600, 1000]) == ("s2", "s1", "s3")
    assert critical("pqd", [300, 600, 1000]) == ("s3", "s1", "s5", "s4", "s6")
    assert critical("pqpd", [300, 600, 800, 1000])[0] == "s3"


def test_the_chain_begins_where_a_worker_is_busy_with_earlier_prompts() -> None:
    assert critical("pd", [600, 1000], {("prefill_backlog", ("d",)): 2.0}) == ("s3",)
    busy: dict[Fact, object] = {("prefill_backlog", ("q",)): 2.0}
    assert critical("pqd", [300, 600, 1000], busy) == ("s5", "s4", "s6")
