"""Runs as tables of text and as JSON: one run in full, or several side by side.

Input is what became of every request, by the name of the run, measured or simulated alike. Owns which
figures are shown, and in which direction each is better. Pages are in page.py.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mserve.runtime.traffic.outcomes import Distribution, Goals, Outcome, Summary, summarize
from mserve.runtime.traffic.winners import FEW_FAILED, RULE, SMALL_SHARE, Doubt, leaders, only

BEST = "*"
ONE_RUN = "Each is one run: another one of the same may come out a little differently."
STATISTICS = ("mean", "p50", "p90", "p99")
DISTRIBUTIONS: Mapping[str, str] = {  # fields of `Summary` with their names in tables
    "ttft": "time to first token",
    "tpot": "time per output token",
    "jct": "job completion time",
    "max_gap": "longest pause",
}


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of runs, with the group that it is shown in. `value` is None where a run does not have
    it; `sign` is 1 where more is better, -1 where less is, 0 where neither. `form` spells values that
    stand beside each other. `small` is a difference that does not count (None: 2% of the value)."""

    group: str
    name: str
    value: Callable[[Summary], float | None]
    form: "Callable[[Sequence[float]], Form]"
    sign: int
    small: float | None = None

    def texts(self, values: Sequence[float | None]) -> tuple[str, ...]:
        text = self.form([value for value in values if value is not None])
        return tuple("-" if value is None else text(value) for value in values)

    def leaders(
        self, values: Sequence[float | None], doubt: Doubt = lambda one, other: 0.0
    ) -> frozenset[int]:
        """The indexes of the runs that no other is clearly better than; none if those are all."""
        return leaders(values, self.sign, small=self.small, doubt=doubt)


Form = Callable[[float], str]


# --- figures as text ----------------------------------------------------------------------------


def seconds_text(value: float) -> str:
    """Three digits: `4.27 ms`, `57.0 ms`, `1.28 s`, `433 s`."""
    if value < 0.9995:
        return f"{_three_digits(value * 1e3)} ms"
    return f"{_three_digits(value)} s"


def seconds_form(values: Sequence[float]) -> Form:
    """As `seconds_text`, but all in one unit; each in its own where that would need many digits."""
    known = [value for value in values if value > 0]
    if not known or min(known) >= 0.9995 or max(known) < 0.9995:
        return seconds_text
    if max(known) < 9.9995:
        return lambda value: f"{_three_digits(value * 1e3)} ms"
    if min(known) >= 0.0995:
        return lambda value: f"{value:,.2f} s"
    return seconds_text


def _three_digits(value: float) -> str:
    decimals = 0 if value == 0 else max(0, 2 - math.floor(math.log10(value)))
    return f"{value:,.{min(decimals, 2)}f}"


def share_text(value: float) -> str:
    return f"{value:.1%}"


def rate_text(value: float) -> str:
    """Per second."""
    return f"{_three_digits(value)}/s"


def goals_text(goals: Goals) -> str:
    """`ttft 500 ms, tpot 50.0 ms`."""
    given = {"ttft": goals.ttft_s, "tpot": goals.tpot_s, "jct": goals.jct_s}
    return ", ".join(f"{name} {seconds_text(value)}" for name, value in given.items() if value)


def usd_text(value: float) -> str:
    return f"${value:,.2f}"


def counts_text(counts: Mapping[str, int]) -> str:
    """`split: 78, short: 22`."""
    return ", ".join(f"{name}: {count:,}" for name, count in counts.items())


# --- one run ------------------------------------------------------------------------------------


def run_table(outcomes: Iterable[Outcome], goals: Goals | None = None) -> str:
    """All figures of one run, a dozen lines."""
    summary = summarize(outcomes, goals)
    rows: list[tuple[str, ...]] = [("", *STATISTICS)]
    rows += [
        (name, *_cells(found))
        for field, name in DISTRIBUTIONS.items()
        if (found := getattr(summary, field)) is not None
    ]
    facts = aligned(list(run_facts(summary)), left=2)
    return "\n\n".join([aligned(rows), facts]) if len(rows) > 1 else facts


def _cells(distribution: Distribution) -> tuple[str, ...]:
    return tuple(seconds_text(getattr(distribution, name)) for name in STATISTICS)


def run_facts(summary: Summary) -> Iterable[tuple[str, str]]:
    """(name, words) for everything that is no distribution."""
    finished = f"{summary.num_finished:,} of {summary.num_requests:,} finished"
    yield "requests", f"{finished} in {seconds_text(summary.span_s)}"
    if summary.num_failed:
        yield "failed", f"{counts_text(summary.errors)} ({share_text(summary.failed_share)})"
    tokens = rate_text(summary.output_rate)
    offered = (
        "" if summary.offered_rate is None else f" of {rate_text(summary.offered_rate)} offered"
    )
    yield (
        "throughput",
        f"{rate_text(summary.request_rate)} requests{offered}, {tokens} output tokens",
    )
    cached = f"{share_text(summary.cached_share)} of them cached"
    yield "tokens", f"{summary.num_prompt:,} prompt, {cached}; {summary.num_output:,} output"
    if summary.goals is not None and summary.goodput is not None:
        met = f"{share_text(summary.goodput.share)}, {rate_text(summary.goodput.rate)} requests"
        yield "goodput", f"{met}{offered} with {goals_text(summary.goals)}"
    if summary.routes:
        yield "routes", counts_text(summary.routes)


# --- several runs -------------------------------------------------------------------------------


def metrics(goals: Goals | None = None) -> list[Metric]:
    """What comparisons show, in their order."""
    figures = [
        _of_distribution(field, statistic)
        for field in DISTRIBUTIONS
        for statistic in (("mean", "p99") if field == "max_gap" else STATISTICS)
    ]
    if goals is not None:
        share = Metric(
            "goodput", "share", lambda s: _of_goodput(s, "share"), _SHARE, 1, SMALL_SHARE
        )
        figures += [
            share,
            Metric("goodput", "rate", lambda s: _of_goodput(s, "rate"), _RATE, 1),
            Metric("goodput", "rate offered", lambda s: s.offered_rate, _RATE, 0),
        ]
    return [
        *figures,
        Metric("throughput", "requests", lambda s: s.request_rate, _RATE, 1),
        Metric("throughput", "output tokens", lambda s: s.output_rate, _RATE, 1),
        *_PRICES,
        *_REQUESTS,
    ]


def _each(text: Form) -> Callable[[Sequence[float]], Form]:
    """A form that does not depend on what stands beside a value."""
    return lambda _: text


_SHARE, _RATE, _COUNT, _USD = map(_each, (share_text, rate_text, "{:,.0f}".format, usd_text))
_PRICES = (
    Metric("price", "of the cluster, per hour", lambda s: s.backstage.usd_per_hour, _USD, 0),
    Metric("price", "per million output tokens", lambda s: s.usd_per_million_output, _USD, -1),
    Metric("price", "per million good tokens", lambda s: s.usd_per_million_good, _USD, -1),
)
_REQUESTS = (
    Metric("requests", "all", lambda s: s.num_requests, _COUNT, 0),
    Metric("requests", "failed", lambda s: s.failed_share, _SHARE, -1, FEW_FAILED),
    Metric("requests", "prompt cached", lambda s: s.cached_share, _SHARE, 1, SMALL_SHARE),
    Metric("requests", "planned anew", lambda s: s.backstage.num_again, _COUNT, 0),
    Metric("requests", "tokens computed again", lambda s: s.backstage.tokens_again, _COUNT, 0),
)


def _of_distribution(field: str, statistic: str) -> Metric:
    def value(summary: Summary) -> float | None:
        found = getattr(summary, field)
        return None if found is None else getattr(found, statistic)

    return Metric(DISTRIBUTIONS[field], statistic, value, seconds_form, -1)


def _of_goodput(summary: Summary, field: str) -> float | None:
    found: float | None = getattr(summary.goodput, field, None)
    return found


@dataclass(frozen=True, slots=True)
class Compared:
    """A figure of several runs: a value and a text for each of them, and the indexes of those that
    no other is clearly better than. `margins` say by how much values may be off, where that is known."""

    metric: Metric
    values: tuple[float | None, ...]
    texts: tuple[str, ...]
    leaders: frozenset[int]
    margins: tuple[str, ...] = ()

    @property
    def winner(self) -> int | None:
        """The only one that is best."""
        return only(self.leaders)

    @property
    def group(self) -> str:
        return self.metric.group

    @property
    def name(self) -> str:
        return self.metric.name


def compared(summaries: Sequence[Summary], goals: Goals | None = None) -> list[Compared]:
    """The figures that at least one run has."""
    rows = []
    for metric in metrics(goals):
        values = tuple(metric.value(summary) for summary in summaries)
        if any(value is not None for value in values):
            rows.append(Compared(metric, values, metric.texts(values), metric.leaders(values)))
    return rows


def compare_table(runs: Mapping[str, Sequence[Outcome]], goals: Goals | None = None) -> str:
    """A column per run; the best figure of a row has a star, and below stands what that means."""
    summaries = [summarize(outcomes, goals) for outcomes in runs.values()]
    rows = [("", *(f"{name} " for name in runs))]
    for row in compared(summaries, goals):
        marks = [BEST if index == row.winner else " " for index in range(len(row.texts))]
        cells = [text + mark for text, mark in zip(row.texts, marks, strict=True)]
        rows.append((f"{row.group}, {row.name}", *cells))
    return f"{aligned(rows)}\n\n{BEST} {RULE}. {ONE_RUN}"


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns two spaces apart; the first `left` of them begin, the others end under each other."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


# --- JSON ---------------------------------------------------------------------------------------


def run_json(outcomes: Sequence[Outcome], goals: Goals | None = None) -> dict[str, Any]:
    """The figures of a run in seconds, tokens, and per second; lists nothing request by request."""
    summary = summarize(outcomes, goals)
    figures = {**asdict(summary), "num_requests": summary.num_requests}
    del figures["backstage"]  # of what is measured nothing is known
    return figures


def outcomes_json(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Every request, in the order given, with the times derived from its own."""
    return [
        {
            **asdict(outcome),
            "ttft_s": outcome.ttft_s,
            "tpot_s": outcome.tpot_s,
            "jct_s": outcome.jct_s,
        }
        for outcome in outcomes
    ]
