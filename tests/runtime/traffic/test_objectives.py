"""Goals and durations in an operator's words."""

import pytest

from mserve.runtime.errors import ConfigError
from mserve.runtime.traffic.objectives import goals, seconds
from mserve.runtime.traffic.outcomes import Goals


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500ms", 0.5), ("90s", 90), ("1.5 s", 1.5), ("2", 2), ("5min", 300), ("40us", 4e-5)],
)
def test_durations(text: str, expected: float) -> None:
    assert seconds(text, "--x") == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "fast", "-1s", "0ms", "5 parsecs"])
def test_what_is_no_duration_names_its_flag(text: str) -> None:
    with pytest.raises(ConfigError, match="--x takes a duration"):
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
        (" , ", "empty"),
    ],
)
def test_what_are_no_goals(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        goals(text)
