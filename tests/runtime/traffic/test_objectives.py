"""Goals and durations in an operator's words."""

import pytest

from mserve.runtime.errors import ConfigError
from mserve.runtime.traffic.objectives import goals, seconds
from mserve.runtime.traffic.outcomes import Goals


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500ms", 0.5), ("90s", 90), ("1.5 s", 1.5), ("5min", 300), ("40us", 4e-5)],
)
def test_durations(text: str, expected: float) -> None:
    assert seconds(text, "--x") == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "fast", "-1s", "ms", "5 parsecs"])
def test_what_is_no_duration_names_its_flag(text: str) -> None:
    with pytest.raises(ConfigError, match="--x takes a duration"):
        seconds(text, "--x")


@pytest.mark.parametrize("number", ["500", "1.5"])
def test_a_duration_needs_its_unit(number: str) -> None:
    with pytest.raises(ConfigError, match=f"--x: {number} what. Write {number}ms or {number}s"):
        seconds(number, "--x")


@pytest.mark.parametrize("text", ["0", "0ms", "0.0s"])
def test_a_duration_of_zero_is_one_where_it_makes_sense(text: str) -> None:
    assert seconds(text, "--x", may_be_0=True) == 0
    with pytest.raises(ConfigError, match=f"--x must be above 0, not {text}"):
        seconds(text, "--x")


def test_goals() -> None:
    assert goals("ttft=500ms, tpot=50ms") == Goals(0.5, 0.05)
    assert goals("jct=10s") == Goals(jct_s=10.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tftt=1s", "did you mean ttft"),
        ("ttft", "as ttft=500ms"),
        ("ttft=1s,ttft=2s", "twice"),
        ("ttft=soon", "--slo ttft takes a duration"),
        ("ttft=500ms,tpot=40", "--slo tpot: 40 what. Write 40ms or 40s"),
        ("latency=1s", "takes ttft, tpot, jct, not 'latency=1s'; as ttft=500ms"),
        (" , ", "empty"),
    ],
)
def test_what_are_no_goals(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        goals(text)
