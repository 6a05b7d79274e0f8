"""A name that was nearly typed is suggested; one that is only like another is not."""

import pytest

from mserve.runtime.traffic.suggestions import meant, near_miss

GPUS = ("h200", "h100", "l40s")


@pytest.mark.parametrize(
    ("word", "known", "near"),
    [
        ("moncake", ("mserve", "mooncake"), "mooncake"),
        ("tftt", ("ttft", "tpot"), "ttft"),
        ("H100", GPUS, "h100"),
        ("b200", GPUS, None),
        ("h1000", GPUS, None),
        ("h300", GPUS, None),
        ("decode-7", ("decode-3",), None),
        ("decode3", ("decode-3",), "decode-3"),
        ("qwen3-235b", ("qwen3-32b",), None),
        ("rt", ("rate",), "rate"),
        ("xv", ("cv",), "cv"),
        ("xy", ("cv",), None),
        ("poission-rate", ("poisson",), None),
    ],
)
def test_near_misses(word: str, known: tuple[str, ...], near: str | None) -> None:
    assert near_miss(word, known) == near


def test_the_nearest_goes_first() -> None:
    assert near_miss("decodes", ("recodes!", "decode")) == "decode"


def test_all_are_listed_where_none_is_near() -> None:
    assert meant("tpu", GPUS, "known are") == "known are h200, h100, l40s."
    assert meant("tpux", ("tpu",)) == "did you mean 'tpu'?"
