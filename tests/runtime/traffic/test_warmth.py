"""A run that found what an earlier one left in caches is not compared without a word."""

from mserve.runtime.traffic.outcomes import Outcome
from mserve.runtime.traffic.warmth import warmed_words


def run(cached: int, num_prompt: int = 100) -> list[Outcome]:
    return [Outcome(0.0, 1.0, 2.0, num_prompt, 5, cached=cached) for _ in range(4)]


def test_a_warm_run_beside_a_cold_one_says_so() -> None:
    words = warmed_words(run(90), run(5), "cold")
    assert words.startswith("Of this run's prompts 90.0% were cached, of cold's 5.0%")


def test_runs_that_are_as_warm_or_of_other_traffic_say_nothing() -> None:
    assert warmed_words(run(90), run(80), "a") == ""
    assert warmed_words(run(5), run(90), "a") == ""
    assert warmed_words(run(40), run(0), "a") == "", "not most of it"
    assert warmed_words(run(90), run(0, num_prompt=101), "a") == ""
