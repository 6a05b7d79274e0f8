"""Which sequences decode together: similar lengths where that pays, and nobody waits beyond the bound."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mserve.runtime.engine.aligned import (
    LAST_PATIENCE,
    LEAST_FILL,
    AlignedPolicy,
    Alignment,
    Ladder,
    Window,
)
from mserve.runtime.engine.decode_cost import MIN_GAIN, DecodeCost, Room, predicted_gain

ROOM = Room(sequences=4, positions=20_000)
SHORT_AND_LONG = {"a": 500, "long1": 4000, "b": 520, "c": 510, "long2": 4100, "d": 530, "e": 505}


def policy_of(
    spread: float = 2.0, patience_s: float = 1.0, fill: float = 0.8
) -> AlignedPolicy[str]:
    return AlignedPolicy(Alignment(spread, patience_s, fill))


def chosen(policy: AlignedPolicy[str], lengths: dict[str, int], now: float) -> set[str]:
    found = policy.choose(lengths, ROOM, now)
    return {item for item in lengths if item in found}


# --- windows ------------------------------------------------------------------------------------


def test_similar_lengths_decode_together() -> None:
    assert chosen(policy_of(), SHORT_AND_LONG, 0.0) <= {"a", "b", "c", "d", "e"}


def test_the_spread_bounds_a_window() -> None:
    lengths = {"a": 100, "b": 140, "c": 180, "d": 400}
    ladder = Ladder(lengths, dict.fromkeys(lengths, 0.0), {})
    assert ladder.best(ROOM, 1.5, None) == Window(0, 2)
    assert ladder.best(ROOM, 2.0, None) == Window(0, 3)
    assert ladder.best(ROOM, 4.0, None) == Window(0, 4)


def test_of_equal_windows_the_one_is_chosen_whose_kv_need_not_move() -> None:
    lengths = {"a": 100, "b": 110, "c": 900, "d": 910}
    policy = policy_of(spread=1.2)
    found = policy.choose(lengths, Room(2, 10_000), 0.0, far={"a", "b"})
    assert {item for item in lengths if item in found} == {"c", "d"}


def test_a_batch_that_cost_something_to_form_stays_longer() -> None:
    policy = policy_of()
    first = chosen(policy, SHORT_AND_LONG, 0.0)
    policy.stay(3.0)
    assert policy.until == pytest.approx(4.0)
    assert chosen(policy, SHORT_AND_LONG, 3.9) == first
    assert chosen(policy, SHORT_AND_LONG, 4.0) != first


def test_a_batch_stays_together_while_others_wait_within_their_patience() -> None:
    policy = policy_of()
    first = chosen(policy, SHORT_AND_LONG, 0.0)
    grown = {k: n + 300 * (k in first) for k, n in SHORT_AND_LONG.items()}
    assert chosen(policy, grown, 0.9) == first
    assert policy.until == pytest.approx(1.0)


def test_the_overdue_bring_those_of_their_length_along() -> None:
    policy = policy_of()
    lengths = {**SHORT_AND_LONG, "long3": 4050}
    del lengths["e"]
    assert chosen(policy, lengths, 0.0) == {"a", "b", "c", "d"}
    at_last = chosen(policy, lengths, 1.0)
    assert at_last >= {"long1", "long2", "long3"}
    assert len(at_last) == 4, "a short one rides along: it costs its own bytes only"


def test_a_batch_is_refilled_when_it_runs_low_and_not_before() -> None:
    policy = policy_of(fill=0.5)
    lengths = dict.fromkeys("abcdefgh", 100)
    assert chosen(policy, lengths, 0.0) == set("abcd")
    del lengths["a"], lengths["b"]
    assert chosen(policy, lengths, 0.1) == set("cd")
    del lengths["c"]
    assert chosen(policy, lengths, 0.2) > {"d"}
    assert len(chosen(policy, lengths, 0.2)) == 4


def test_a_small_batch_takes_longer_ones_too() -> None:
    lengths = {"short": 10, "long1": 90, "long2": 300, "long3": 900}
    policy = policy_of(spread=1.5)
    assert len(chosen(policy, lengths, 0.0)) >= LEAST_FILL * ROOM.sequences


def test_lengths_that_do_not_fit_wait() -> None:
    lengths = {"a": 12_000, "b": 12_001, "c": 6000}
    found = chosen(policy_of(), lengths, 0.0)
    assert found
    assert sum(lengths[item] for item in found) <= ROOM.positions


def test_who_fits_in_no_batch_is_in_one_alone() -> None:
    assert chosen(policy_of(), {"a": 30_000}, 0.0) == {"a"}


# --- how long one waits ---------------------------------------------------------------------------


@dataclass
class Crowd:
    """Sequences that come, decode while they are chosen, and go. Says who has been passed over."""

    lengths: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    since: dict[str, float] = field(default_factory=dict)

    def come(self, length: int, num_output: int) -> None:
        name = f"s{len(self.left)}"
        self.lengths[name], self.left[name] = length, num_output

    def passed_over(self, policy: AlignedPolicy[str], now: float) -> None:
        for name in self.lengths:
            if name in policy:
                self.since.pop(name, None)
            else:
                self.since.setdefault(name, now)

    def step(self, policy: AlignedPolicy[str]) -> None:
        for name in [name for name in self.lengths if name in policy]:
            self.lengths[name] += 1
            self.left[name] -= 1
            if not self.left[name]:
                del self.lengths[name]


@settings(max_examples=60, deadline=None)
@given(
    arrivals=st.lists(
        st.tuples(st.integers(0, 60), st.sampled_from([10, 20, 90, 400]), st.integers(1, 80)),
        min_size=1,
        max_size=40,
    ),
    steps_s=st.lists(st.sampled_from([0.01, 0.02, 0.05]), min_size=1, max_size=5),
    patience_s=st.sampled_from([0.0, 0.03, 0.3]),
    fill=st.sampled_from([0.0, 0.8, 1.0]),
)
def test_nobody_waits_beyond_the_bound(
    arrivals: list[tuple[int, int, int]], steps_s: list[float], patience_s: float, fill: float
) -> None:
    room = Room(4, 4 * 500)  # the positions of any four fit
    policy: AlignedPolicy[str] = AlignedPolicy(Alignment(2.0, patience_s, fill))
    crowd, now, step = Crowd(), 0.0, 0
    bounds: dict[str, float] = {}
    while crowd.lengths or any(at >= step for at, _, _ in arrivals):
        for _, length, num_output in [each for each in arrivals if each[0] == step]:
            crowd.come(length, num_output)
        policy.choose(crowd.lengths, room, now)
        crowd.passed_over(policy, now)
        assert len([n for n in crowd.lengths if n in policy]) <= room.sequences
        bounds = {name: bounds[name] for name in crowd.since if name in bounds}
        for name, since_s in crowd.since.items():
            num_before = sum(at_s <= since_s for at_s in crowd.since.values()) - 1
            num_formed = num_before // room.sequences + 1
            wait_s = LAST_PATIENCE * patience_s + num_formed * (patience_s + max(steps_s))
            bounds.setdefault(name, crowd.since[name] + wait_s)
            assert now <= bounds[name] + 1e-9, f"{name} waits since {crowd.since[name]}"
        crowd.step(policy)
        crowd.since = {n: at for n, at in crowd.since.items() if n in crowd.lengths}
        now += steps_s[step % len(steps_s)]
        step += 1


# --- what it is predicted to gain -------------------------------------------------------------------

UNSPLIT = DecodeCost(fixed_s=6e-3, sequence_s=1e-5, position_s=3e-8, longest_s=2e-6)
MIX = ([512] * 19 + [8192]) * 50
WIDE = Room(256, 10**7)


def gain(lengths: list[int], cost: DecodeCost = UNSPLIT) -> float:
    return predicted_gain(lengths, WIDE, cost, stay_s=1.0, num_tokens=100)


def test_the_gain_is_what_the_formula_says() -> None:
    one = DecodeCost(fixed_s=1.0, longest_s=0.01)
    room = Room(2, 10**6)
    # Plain: (100, 1), (100, 1), 2 s each. Sorted: (100, 100) 2 s, (1, 1) 1.01 s.
    found = predicted_gain([100, 1, 100, 1], room, one, 1.0, 100)
    assert found == pytest.approx(1 - 3.01 / 4)


@pytest.mark.parametrize(
    ("lengths", "cost"),
    [
        (MIX, DecodeCost(6e-3, 1e-5, 3.3e-8, 0.0)),  # a kernel that splits KV
        ([512] * 1000, UNSPLIT),  # equal lengths
        ([16] * 950 + [256] * 50, UNSPLIT),  # short ones
        (MIX[:200], UNSPLIT),  # all in one batch
        (MIX, DecodeCost(6e-3, 1e-5, 3e-8, 2e-6, move_s=1e-3)),  # a slow link to the host
        ([], UNSPLIT),
    ],
)
def test_nothing_to_gain(lengths: list[int], cost: DecodeCost) -> None:
    room = Room(256, 200_000) if cost.move_s else WIDE
    assert predicted_gain(lengths, room, cost, 1.0, 100) < MIN_GAIN


def test_long_ones_among_short_ones_gain() -> None:
    assert gain(MIX) > MIN_GAIN
    assert gain(MIX) > gain(MIX, DecodeCost(6e-3, 1e-5, 3e-8, 1e-6))


@pytest.mark.parametrize("cost", [UNSPLIT, DecodeCost(1e-3, 0.0, 1e-7, 0.0)])
def test_costs_are_found_from_four_steps(cost: DecodeCost) -> None:
    def decode_time(contexts: Sequence[int]) -> float:
        return cost.step_time(len(contexts), sum(contexts), max(contexts))

    found = DecodeCost.fitted(decode_time)
    for name in ("fixed_s", "sequence_s", "position_s", "longest_s"):
        assert getattr(found, name) == pytest.approx(getattr(cost, name), abs=1e-12)
