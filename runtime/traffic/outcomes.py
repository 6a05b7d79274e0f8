"""What became of requests: times of each one, and the figures that sum up a run of them.

Owns the definitions of TTFT, TPOT, JCT and goodput, so that a real run and a simulated one mean the
same by them. Times are seconds on one clock of the run. Knows neither servers nor simulations.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request, as its client saw it. `error` is the kind of failure, "" if it finished.

    Lengths in tokens; of a failed request `num_output` is what came before it failed.
    """

    arrival_s: float  # when it was due: waiting in the client counts
    first_token_s: float | None  # None: no token came
    ended_s: float
    num_prompt: int
    num_output: int
    cached: int = 0  # of the prompt, found in a cache
    route: str = ""  # of the strategy
    worker: str = ""  # that answered
    error: str = ""
    max_gap_s: float = 0.0  # the longest pause between two pieces of the answer

    def __post_init__(self) -> None:
        assert self.ended_s >= self.arrival_s, "A request ends after it arrives."

    @property
    def ttft_s(self) -> float | None:
        """Time to first token: from arrival."""
        return None if self.first_token_s is None else self.first_token_s - self.arrival_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first one: (end - first token) / (tokens - 1).

        None below two tokens.
        """
        if self.first_token_s is None or self.num_output < 2:
            return None
        return (self.ended_s - self.first_token_s) / (self.num_output - 1)

    @property
    def jct_s(self) -> float:
        """Job completion time: from arrival to the last token."""
        return self.ended_s - self.arrival_s


@dataclass(frozen=True, slots=True)
class Goals:
    """A service level objective: a request meets it when it meets every goal that is given."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    jct_s: float | None = None

    def met_by(self, outcome: Outcome) -> bool:
        """A failed request meets none. One token has no TPOT, so none that is too long."""
        if outcome.error or outcome.first_token_s is None:
            return False
        return (
            _within(outcome.ttft_s, self.ttft_s)
            and _within(outcome.tpot_s, self.tpot_s)
            and _within(outcome.jct_s, self.jct_s)
        )


def _within(value: float | None, goal: float | None) -> bool:
    return value is None or goal is None or value <= goal


@dataclass(frozen=True, slots=True)
class Distribution:
    """Of a time, in seconds."""

    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Distribution | None":
        """None of no values."""
        ordered = sorted(values)
        if not ordered:
            return None
        mean = math.fsum(ordered) / len(ordered)
        return cls(mean, *(quantile(ordered, share) for share in (0.5, 0.9, 0.99)))


def quantile(ordered: Sequence[float], share: float) -> float:
    """Of sorted values, at least one; linear between neighbours, as numpy's default."""
    at = share * (len(ordered) - 1)
    below = math.floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)


@dataclass(frozen=True, slots=True)
class Goodput:
    """Requests that met every goal: their share of all that arrived, how many a second, and the
    tokens of their answers."""

    share: float
    rate: float
    num_output: int


@dataclass(frozen=True, slots=True)
class Backstage:
    """What no client sees and only a simulation knows of a run. The price is the whole cluster's, None
    where nobody knows it. `num_again` are requests that were interrupted and planned anew, for which
    `tokens_again` were computed once more, at most."""

    usd_per_hour: float | None = None
    num_again: int | None = None  # None: nothing was to interrupt them, and nothing did
    tokens_again: int | None = None


NO_BACKSTAGE = Backstage()


@dataclass(frozen=True, slots=True)
class Summary:
    """A run. Distributions are over requests that finished; rates are per second of `span_s`."""

    num_finished: int
    num_failed: int
    errors: Mapping[str, int]  # failed requests by kind
    routes: Mapping[str, int]  # finished requests by route
    span_s: float  # from the first arrival to the last end
    ttft: Distribution | None
    tpot: Distribution | None
    jct: Distribution | None
    max_gap: Distribution | None
    num_prompt: int  # tokens of finished requests, as `num_output`
    num_output: int
    cached_share: float  # of those prompt tokens
    request_rate: float  # finished ones
    output_rate: float  # tokens, of failed requests, too: they were sent
    goals: Goals | None
    goodput: Goodput | None  # None without goals
    offered_rate: float | None = None  # requests, from the first arrival to the last; None of one
    backstage: Backstage = NO_BACKSTAGE

    @property
    def num_requests(self) -> int:
        return self.num_finished + self.num_failed

    @property
    def failed_share(self) -> float:
        return self.num_failed / self.num_requests if self.num_requests else 0.0

    @property
    def usd_per_million_output(self) -> float | None:
        return self._usd_per_million(self.num_output)

    @property
    def usd_per_million_good(self) -> float | None:
        """Of the tokens of requests that met every goal."""
        return self._usd_per_million(self.goodput.num_output if self.goodput else 0)

    def _usd_per_million(self, num_tokens: int) -> float | None:
        usd_per_hour = self.backstage.usd_per_hour
        if usd_per_hour is None or not num_tokens:
            return None
        return usd_per_hour * self.span_s / 3600 / num_tokens * 1e6


def summarize(
    outcomes: Iterable[Outcome],
    goals: Goals | None = None,
    backstage: Backstage = NO_BACKSTAGE,
) -> Summary:
    """The figures of a run; of no outcomes at all, zeros and no distributions."""
    everyone = list(outcomes)
    finished = [outcome for outcome in everyone if not outcome.error]
    failed = [outcome.error for outcome in everyone if outcome.error]
    span_s = _span_s(everyone)
    num_prompt = sum(outcome.num_prompt for outcome in finished)
    num_cached = sum(outcome.cached for outcome in finished)
    return Summary(
        num_finished=len(finished),
        num_failed=len(failed),
        errors=_by_number(failed),
        routes=_by_number([outcome.route for outcome in finished if outcome.route]),
        span_s=span_s,
        ttft=Distribution.of(_known(outcome.ttft_s for outcome in finished)),
        tpot=Distribution.of(_known(outcome.tpot_s for outcome in finished)),
        jct=Distribution.of(outcome.jct_s for outcome in finished),
        max_gap=Distribution.of(outcome.max_gap_s for outcome in finished if outcome.max_gap_s),
        num_prompt=num_prompt,
        num_output=sum(outcome.num_output for outcome in finished),
        cached_share=num_cached / num_prompt if num_prompt else 0.0,
        request_rate=_rate(len(finished), span_s),
        output_rate=_rate(sum(outcome.num_output for outcome in everyone), span_s),
        goals=goals,
        goodput=None if goals is None else _goodput(everyone, goals, span_s),
        offered_rate=_offered_rate(everyone),
        backstage=backstage,
    )


def _span_s(outcomes: Sequence[Outcome]) -> float:
    if not outcomes:
        return 0.0
    begin_s = min(outcome.arrival_s for outcome in outcomes)
    return max(outcome.ended_s for outcome in outcomes) - begin_s


def _goodput(outcomes: Sequence[Outcome], goals: Goals, span_s: float) -> Goodput:
    met = [outcome for outcome in outcomes if goals.met_by(outcome)]
    share = len(met) / len(outcomes) if outcomes else 0.0
    num_output = sum(outcome.num_output for outcome in met)
    return Goodput(share, _rate(len(met), span_s), num_output)


def _offered_rate(outcomes: Sequence[Outcome]) -> float | None:
    arrivals_s = [outcome.arrival_s for outcome in outcomes]
    span_s = max(arrivals_s) - min(arrivals_s) if arrivals_s else 0.0
    return len(arrivals_s) / span_s if span_s > 0 else None


def _rate(count: int, span_s: float) -> float:
    return count / span_s if span_s > 0 else 0.0


def _known(values: Iterable[float | None]) -> Iterable[float]:
    return (value for value in values if value is not None)


def _by_number(names: Sequence[str]) -> Mapping[str, int]:
    """Counts, the most frequent first."""
    return dict(Counter(names).most_common())
