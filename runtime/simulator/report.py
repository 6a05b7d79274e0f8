"""What a simulation says beyond its requests' times: caches, workers, transfers, price, faults.

Adds to the figures of traffic/report.py, which measured runs have, too. Knows results, not how they
came about.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from mserve.runtime.simulator.outliers import outlier_facts, outliers
from mserve.runtime.simulator.results import Happened, Result, WorkerUse
from mserve.runtime.traffic.outcomes import Backstage, Goals, Summary, summarize
from mserve.runtime.traffic.report import (
    aligned,
    run_json,
    run_table,
    seconds_text,
    share_text,
    usd_text,
)

MAX_FAULTS = 6  # that are listed in words
MAX_FAILURES = 100  # whose errors JSON has


@dataclass(frozen=True, slots=True)
class CacheShares:
    """Of all prompt tokens: cached anywhere in the fleet, at a worker of the plan, not computed."""

    available: float
    routed: float
    delivered: float


@dataclass(frozen=True, slots=True)
class PoolUse:
    """`busy` is the share of the span in which a worker of the pool has a step under way, however
    little is in it; how full steps and caches are says what room is left."""

    pool: str
    num_workers: int
    busy: float
    busiest: float  # of its workers
    tokens_per_step: float
    max_batch_tokens: int
    peak_kv: float  # share of the pages that requests held at once, on the worker that held most


@dataclass(frozen=True, slots=True)
class Uses:
    """What a run took. Prices are None where nobody knows what workers cost; those of tokens also
    where there are none. Good ones are of requests that met every goal."""

    cache: CacheShares
    pools: Sequence[PoolUse]
    transferred_gb: float
    num_gpus: int
    usd_per_hour: float | None
    usd_per_million_tokens: float | None  # of output, as the next
    usd_per_million_good_tokens: float | None


def summary_of(result: Result, goals: Goals | None = None) -> Summary:
    """The figures that runs are compared by, and what only a simulation knows."""
    usd_per_hour = 3600 * sum(worker.usd_per_s for worker in result.workers)
    num_again = tokens_again = None
    if result.faults or result.again:
        num_again = len(result.again)
        tokens_again = sum(each.num_tokens for each in result.again.values())
    backstage = Backstage(usd_per_hour or None, num_again, tokens_again)
    return summarize(result.outcomes, goals, backstage)


def uses(result: Result, goals: Goals | None = None) -> Uses:
    summary = summary_of(result, goals)
    return Uses(
        _shares(result),
        _pool_uses(result.workers, summary.span_s),
        result.transferred_bytes / 1e9,
        sum(worker.gpus for worker in result.workers),
        summary.backstage.usd_per_hour,
        summary.usd_per_million_output,
        summary.usd_per_million_good,
    )


def result_json(result: Result, goals: Goals | None = None) -> Mapping[str, object]:
    return {
        **run_json(result.outcomes, goals),
        **asdict(uses(result, goals)),
        "faults": [asdict(happened) for happened in result.faults],
        "faults_that_never_came": list(result.never_came),
        "planned_again": {number: asdict(again) for number, again in result.again.items()},
        "doubts": list(result.doubts),
        "failures": dict(list(result.failures.items())[:MAX_FAILURES]),
        "outliers": asdict(outliers(result.outcomes)),
        "digest": result.digest,
    }


def result_table(result: Result, goals: Goals | None = None) -> str:
    """Several lines, without a trailing line break."""
    facts = [*result_facts(result, goals), *outlier_facts(result.outcomes, result.failures)]
    return f"{run_table(result.outcomes, goals)}\n{aligned(facts, left=2)}"


def result_facts(result: Result, goals: Goals | None = None) -> Iterator[tuple[str, str]]:
    """(name, words)."""
    found = uses(result, goals)
    yield from _use_facts(found)
    if found.usd_per_hour is not None:
        yield "price", _price_text(found, result.price_source)
    if result.faults:
        yield "faults", _faults_text(result.faults)
    if result.faults or result.again:
        yield "replanned", _again_text(result)
    for words in result.never_came:
        yield "no fault", words
    for words in result.doubts:
        yield "doubt", words


def _price_text(found: Uses, source: str) -> str:
    assert found.usd_per_hour is not None, "Somebody knows the price."
    each = usd_text(found.usd_per_hour / found.num_gpus) + (f" ({source})" if source else "")
    gpus = f"{found.num_gpus} GPU{'s' * (found.num_gpus != 1)} at {each}"
    said = f"{usd_text(found.usd_per_hour)} an hour: {gpus}"
    if found.usd_per_million_tokens is not None:
        said += f"; {usd_text(found.usd_per_million_tokens)} per million output tokens"
    if found.usd_per_million_good_tokens is not None:
        said += f", {usd_text(found.usd_per_million_good_tokens)} per million good ones"
    return said


def _again_text(result: Result) -> str:
    num_tokens = sum(each.num_tokens for each in result.again.values())
    count = (
        f"{len(result.again):,} request{'s' * (len(result.again) != 1)} interrupted, planned anew"
    )
    return f"{count}, at most {num_tokens:,} tokens computed again" if result.again else count


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
        yield "pool", f"{pool.pool}: {count}, {_pool_text(pool)}"
    yield "transfers", f"{found.transferred_gb:,.1f} GB of KV"


def _pool_text(pool: PoolUse) -> str:
    """A step that is under way may be all but empty: so how full they are stands beside it."""
    busiest = f" (busiest {share_text(pool.busiest)})" if pool.num_workers > 1 else ""
    said = f"in a step {share_text(pool.busy)} of the time{busiest}"
    if not pool.max_batch_tokens:
        return said
    tokens = f"{pool.tokens_per_step:,.0f} of {pool.max_batch_tokens:,} tokens a step"
    return f"{said}, {tokens}, KV at most {share_text(pool.peak_kv)} full"


def _shares(result: Result) -> CacheShares:
    total = sum(outcome.num_prompt for outcome in result.outcomes) or 1
    return CacheShares(
        sum(use.available for use in result.cache) / total,
        sum(use.routed for use in result.cache) / total,
        sum(use.delivered for use in result.cache) / total,
    )


def _pool_uses(workers: Sequence[WorkerUse], span_s: float) -> list[PoolUse]:
    pools: dict[str, list[WorkerUse]] = {}
    for worker in workers:
        pools.setdefault(worker.pool, []).append(worker)
    return [_pool_use(pool, each, span_s) for pool, each in pools.items()]


def _pool_use(pool: str, workers: Sequence[WorkerUse], span_s: float) -> PoolUse:
    busy = [worker.busy_s / span_s if span_s else 0.0 for worker in workers]
    num_steps = sum(worker.num_steps for worker in workers)
    return PoolUse(
        pool,
        len(workers),
        sum(busy) / len(busy),
        max(busy),
        sum(worker.num_tokens for worker in workers) / num_steps if num_steps else 0.0,
        max(worker.max_batch_tokens for worker in workers),
        max(
            worker.peak_pages / worker.num_pages if worker.num_pages else 0.0 for worker in workers
        ),
    )
