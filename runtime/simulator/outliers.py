"""Which requests of a run to ask about: those that failed, waited or took longest, by their number.

A request's number is its place in the traffic, from 0. Knows no plans.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mserve.runtime.traffic.outcomes import Outcome
from mserve.runtime.traffic.report import seconds_text

MAX_EACH = 5


@dataclass(frozen=True, slots=True)
class Outliers:
    """Numbers of requests, the worst first, of failed ones the earliest; few of each."""

    failed: tuple[int, ...]
    latest: tuple[int, ...]  # to get their first token
    longest: tuple[int, ...]  # until their last one


def outliers(outcomes: Sequence[Outcome]) -> Outliers:
    """Among equals, the earlier ones."""
    finished = [number for number, outcome in enumerate(outcomes) if not outcome.error]
    failed = [number for number, outcome in enumerate(outcomes) if outcome.error]
    latest = sorted(finished, key=lambda number: -(outcomes[number].ttft_s or 0.0))
    longest = sorted(finished, key=lambda number: -outcomes[number].jct_s)
    return Outliers(*(tuple(numbers[:MAX_EACH]) for numbers in (failed, latest, longest)))


def outlier_facts(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, str]]:
    """(name, words)."""
    found = outliers(outcomes)
    named = {
        "unserved": [(number, outcomes[number].error) for number in found.failed],
        "slow start": [
            (number, seconds_text(outcomes[number].ttft_s or 0.0)) for number in found.latest
        ],
        "slow end": [(number, seconds_text(outcomes[number].jct_s)) for number in found.longest],
    }
    for name, requests in named.items():
        if requests:
            words = ", ".join(f"{number} ({what})" for number, what in requests)
            plural = "s" if len(requests) > 1 else ""
            yield name, f"request{plural} {words}; --why {requests[0][0]} says why"
