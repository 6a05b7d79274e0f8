"""Who is best: only who is clearly ahead."""

import pytest

from mserve.runtime.traffic.winners import SMALL_SHARE, leaders, only


@pytest.mark.parametrize(
    ("values", "sign", "found"),
    [
        ([1.0, 2.0], 1, {1}),
        ([1.0, 2.0], -1, {0}),
        ([1.0, 2.0], 0, set()),
        ([1.0], 1, set()),
        ([100.0, 101.9], -1, set()),
        ([100.0, 102.1], -1, {0}),
        ([100.0, 101.0, 150.0], -1, {0, 1}),
        ([None, 2.0, 1.0], -1, {2}),
        ([0.0, 0.0], -1, set()),
        ([0.0, 0.001], -1, {0}),
    ],
)
def test_less_than_two_percent_is_no_difference(
    values: list[float | None], sign: int, found: set[int]
) -> None:
    assert leaders(values, sign) == found


def test_of_shares_points_count() -> None:
    assert leaders([0.05, 0.055], 1, small=SMALL_SHARE) == set()
    assert leaders([0.05, 0.07], 1, small=SMALL_SHARE) == {1}


def test_a_difference_in_doubt_tells_nobody_apart() -> None:
    assert leaders([1.0, 1.5], -1, doubt=lambda one, other: 0.4) == {0}
    assert leaders([1.0, 1.5], -1, doubt=lambda one, other: 0.6) == set()
    assert leaders([1.0, 1.5, 4.0], -1, doubt=lambda one, other: 0.6) == {0, 1}


def test_a_winner_is_alone() -> None:
    assert only(frozenset({3})) == 3
    assert only(frozenset({1, 3})) is None
    assert only(frozenset()) is None
