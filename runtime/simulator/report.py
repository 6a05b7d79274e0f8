"""What a simulation says beyond its requests' times: caches, workers, transfers, price, faults.

Adds to the figures of traffic/report.py, which measured runs have, too. Knows results, not how they
came about.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from mserve.runtime.simulator.outliers import outlier_facts, outliers
from mserve.runtime.simulator.results import Happened, Result, WorkerUse
from mserve.runtime.traffic.outcomes import Goals, summarize
from mserve.runtime.traffic.report import aligned, run_json, run_table, seconds_text, share_text

MAX_FAULTS = 6  # that are listed in words


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
class Uses:
    """What a run took. `usd_per_million_tokens` is of output; None without any, or
    where nobody knows what workers cost."""

    cache: CacheShares
    pools: Sequence[PoolUse]
    transferred_gb: float
    usd_per_million_tokens: float | None


def uses(result: Result) -> Uses:
    summary = summarize(result.outcomes)
    usd = summary.span_s * sum(worker.usd_per_s for worker in result.workers)
    return Uses(
        _shares(result),
        _pool_uses(result.workers, summary.span_s),
        result.transferred_bytes / 1e9,
        usd / summary.num_output * 1e6 if usd and summary.num_output else None,
    )


def result_json(result: Result, goals: Goals | None = None) -> Mapping[str, object]:
    return {
        **run_json(result.outcomes, goals),
        **asdict(uses(result)),
        "faults": [asdict(happened) for happened in result.faults],
        "outliers": asdict(outliers(result.outcomes)),
        "digest": result.digest,
    }


def result_table(result: Result, goals: Goals | None = None) -> str:
    """Several lines, without a trailing line break."""
    facts = [*result_facts(result), *outlier_facts(result.outcomes)]
    return f"{run_table(result.outcomes, goals)}\n{aligned(facts, left=2)}"


def result_facts(result: Result) -> Iterator[tuple[str, str]]:
    """(name, words)."""
    yield from _use_facts(uses(result))
    if result.faults:
        yield "faults", _faults_text(result.faults)


def _faults_text(faults: Sequence[Happened]) -> str:
    counts = Counter(happened.what for happened in faults)
    said = ", ".join(f"{count} {what}{'s' * (count != 1)}" for what, count in counts.items())
    first = [f"{each} at {seconds_text(each.at_s)}" for each in faults[:MAX_FAULTS]]
    more = f", and {len(faults) - MAX_FAULTS} more" if len(faults) > MAX_FAULTS else ""
    return f"{said}: {', '.join(first)}{more}"


def _use_facts(found: Uses) -> Iterator[tuple[str, str]]:
    available, routed, delivered = map(share_text, asdict(found.cache).values())
    yield "cache", f"{available} of prompt tokens available, {routed} routed, {delivered} delivered"
    for pool in found.pools:
        count = f"{pool.num_workers} worker{'s' if pool.num_workers != 1 else ''}"
        busy = f"{share_text(pool.busy)} busy, the busiest {share_text(pool.busiest)}"
        yield "pool", f"{pool.pool}: {count}, {busy}"
    yield "transfers", f"{found.transferred_gb:,.1f} GB of KV"
    if found.usd_per_million_tokens is not None:
        yield "price", f"${found.usd_per_million_tokens:.2f} per million output tokens"


def _shares(result: Result) -> CacheShares:
    total = sum(outcome.num_prompt for outcome in result.outcomes) or 1
    return CacheShares(
        sum(use.available for use in result.cache) / total,
        sum(use.routed for use in result.cache) / total,
        sum(use.delivered for use in result.cache) / total,
    )


def _pool_uses(workers: Sequence[WorkerUse], span_s: float) -> list[PoolUse]:
    shares: dict[str, list[float]] = {}
    for worker in workers:
        shares.setdefault(worker.pool, []).append(worker.busy_s / span_s if span_s else 0.0)
    return [
        PoolUse(pool, len(busy), sum(busy) / len(busy), max(busy)) for pool, busy in shares.items()
    ]
