"""Which requests of a run to ask about: those that failed, waited or took longest, by their number.

A request's number is its place in the traffic, from 0. Knows no plans.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from mserve.runtime.traffic.outcomes import Outcome
from mserve.runtime.traffic.report import seconds_text

MAX_EACH = 5
NOTHING_SAID: Mapping[int, str] = MappingProxyType({})


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


def outlier_facts(
    outcomes: Sequence[Outcome], failures: Mapping[int, str] = NOTHING_SAID
) -> Iterator[tuple[str, str]]:
    """(name, words). `failures` has what was said of failed requests."""
    found = outliers(outcomes)
    for number in found.failed[:1]:
        kinds = ", ".join(f"{each} ({outcomes[each].error})" for each in found.failed)
        yield "unserved", f"{_requests(found.failed)} {kinds}; --why {number} says why"
    for number, error in _first_of_each_kind(outcomes):
        if said := failures.get(number):
            yield "failure", f"{error}, as of request {number}: {said}"
    named = {
        "slow start": [(n, outcomes[n].ttft_s or 0.0) for n in found.latest],
        "slow end": [(n, outcomes[n].jct_s) for n in found.longest],
    }
    for name, requests in named.items():
        if requests:
            words = ", ".join(f"{number} ({seconds_text(time_s)})" for number, time_s in requests)
            yield name, f"{_requests(requests)} {words}; --why {requests[0][0]} says why"


def _requests(numbers: Sequence[object]) -> str:
    return "requests" if len(numbers) > 1 else "request"


def _first_of_each_kind(outcomes: Sequence[Outcome]) -> list[tuple[int, str]]:
    """(number, kind) of failures."""
    first: dict[str, int] = {}
    for number, outcome in enumerate(outcomes):
        if outcome.error:
            first.setdefault(outcome.error, number)
    return [(number, error) for error, number in first.items()]
