"""What a simulation is summed up to: a table for people, JSON for programs.

Knows results, not how they came about. Times are virtual unless named otherwise.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from mserve.runtime.simulator.simulation import Result, WorkerUse
from mserve.runtime.traffic.outcomes import Distribution, Goals, Summary, summarize


@dataclass(frozen=True, slots=True)
class CacheShares:
    """Of all prompt tokens: cached anywhere in the fleet, at a worker of the plan, not computed."""

    available: float
    routed: float
    delivered: float


@dataclass(frozen=True, slots=True)
class PoolUse:
    """`busy` is the share of the span in which a worker of the pool has a step under way."""

    pool: str
    num_workers: int
    busy: float
    busiest: float  # of its workers


@dataclass(frozen=True, slots=True)
class Report:
    """One strategy's simulation."""

    strategy: str
    summary: Summary
    cache: CacheShares
    pools: Sequence[PoolUse]
    transferred_gb: float
    usd_per_million_tokens: float  # of output
    digest: str


def report(strategy: str, result: Result, goals: Goals | None = None) -> Report:
    summary = summarize(result.outcomes, goals)
    usd = summary.span_s * sum(worker.usd_per_s for worker in result.workers)
    return Report(
        strategy,
        summary,
        _shares(result),
        _pool_uses(result.workers, summary.span_s),
        result.transferred_bytes / 1e9,
        usd / summary.num_output * 1e6 if summary.num_output else 0.0,
        result.digest,
    )


def report_json(found: Report) -> Mapping[str, object]:
    return asdict(found)


def report_text(found: Report) -> str:
    """Several lines, without a trailing line break."""
    summary = found.summary
    lines = [_headline(found)]
    lines += ["", f"{'':<12}{'mean':>10}{'p50':>10}{'p90':>10}{'p99':>10}"]
    times = (("TTFT", summary.ttft), ("TPOT", summary.tpot), ("JCT", summary.jct))
    lines += [_row(name, times_of) for name, times_of in times if times_of is not None]
    lines += ["", *_facts(found)]
    return "\n".join(lines)


def _headline(found: Report) -> str:
    summary = found.summary
    failed = f", {summary.num_failed:,} failed" if summary.num_failed else ""
    return (
        f"{found.strategy}: {summary.num_finished:,} requests finished{failed} in"
        f" {summary.span_s:,.1f} s of simulated time"
    )


def _row(name: str, times: Distribution) -> str:
    values = (times.mean, times.p50, times.p90, times.p99)
    return f"{name:<12}" + "".join(f"{seconds_text(value):>10}" for value in values)


def seconds_text(value_s: float) -> str:
    return f"{value_s:.2f} s" if value_s >= 1 else f"{value_s * 1e3:.1f} ms"


def _facts(found: Report) -> Iterator[str]:
    summary, cache = found.summary, found.cache
    yield f"throughput  {summary.request_rate:.2f} requests/s, {summary.output_rate:,.0f} tokens/s"
    if summary.goodput is not None:
        share, rate = summary.goodput.share, summary.goodput.rate
        yield f"goodput     {share:.1%} met every goal, {rate:.2f} requests/s"
    yield f"routes      {_counts(summary.routes)}"
    if summary.errors:
        yield f"errors      {_counts(summary.errors)}"
    yield (
        f"cache       {cache.available:.1%} of prompt tokens available, {cache.routed:.1%} routed,"
        f" {cache.delivered:.1%} delivered"
    )
    for pool in found.pools:
        count = f"{pool.num_workers} worker{'s' if pool.num_workers != 1 else ''}"
        yield f"pool        {pool.pool}: {count}, {pool.busy:.0%} busy, busiest {pool.busiest:.0%}"
    yield f"transfers   {found.transferred_gb:,.1f} GB of KV"
    yield f"price       ${found.usd_per_million_tokens:.2f} per million output tokens"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _shares(result: Result) -> CacheShares:
    total = sum(outcome.num_prompt for outcome in result.outcomes) or 1
    uses = result.cache
    return CacheShares(
        sum(use.available for use in uses) / total,
        sum(use.routed for use in uses) / total,
        sum(use.delivered for use in uses) / total,
    )


def _pool_uses(workers: Sequence[WorkerUse], span_s: float) -> list[PoolUse]:
    pools: dict[str, list[float]] = {}
    for worker in workers:
        pools.setdefault(worker.pool, []).append(worker.busy_s / span_s if span_s else 0.0)
    return [
        PoolUse(pool, len(shares), sum(shares) / len(shares), max(shares))
        for pool, shares in pools.items()
    ]
