"""What does the router add to a request? Against calling the worker straight, in one run.

    python bench/router_overhead.py [--strategy NAME] [--duration S] [--json FILE]

Three processes: mock workers that answer plan calls at once (8 of them behind one event loop), the
router with the small model's tokenizer, and this one with the clients. Straight to the worker means
the same plan call by the same client code, without HTTP parsing of OpenAI bodies, tokenizing,
deciding and relaying; rounds alternate. Added latency is the difference of the percentiles.
Bars: p50 at most 1 ms and p99 at most 10 ms at 500 requests/s; 50,000 streamed tokens/s per core.
"""

import argparse
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from mock_cluster import ANSWER_TOKENS, NUM_WORKERS, MockCluster, mock_cluster
from mserve.runtime.config import shipped_model
from mserve.runtime.tokenizer import Tokenizer
from record import write_record
from router_load import PROMPT, Side, closed_loop, open_loop, straight, through_router

NUM_CLIENTS = (1, 16, 64)
REQUESTS_PER_S = 500
NUM_STREAMS = 64
STREAM_TOKENS = 512
ROUNDS = 3

T = TypeVar("T")
Sides = tuple[Side, Side]  # straight, and through the router


async def measure_latency(
    sides: Sides, cluster: MockCluster, duration_s: float
) -> list[dict[str, Any]]:
    rows = [await closed_row(sides, cluster, count, duration_s) for count in NUM_CLIENTS]
    found = await alternate(
        sides, lambda side: open_loop(side, REQUESTS_PER_S, duration_s / ROUNDS)
    )
    times = [[time_s for times in each for time_s in times] for each in found]
    return [*rows, latency_row(f"{REQUESTS_PER_S} requests/s", *times)]


async def closed_row(
    sides: Sides, cluster: MockCluster, num_clients: int, duration_s: float
) -> dict[str, Any]:
    """With so many clients that always ask: times, rates, and what a request costs the router."""
    cpu_began_s = cluster.router_cpu_s()
    found = await alternate(sides, lambda side: closed_loop(side, num_clients, duration_s / ROUNDS))
    cpu_s = cluster.router_cpu_s() - cpu_began_s
    times = [[time_s for load in each for time_s in load.times_s] for each in found]
    row = latency_row(f"{num_clients} clients", *times)
    for side, each in zip(sides, found, strict=True):
        rates = sorted(load.requests_per_s for load in each)
        row[f"{side.name}_requests_per_s"] = round(rates[ROUNDS // 2])
    row["router_cpu_us_per_request"] = round(1e6 * cpu_s / len(times[1]))
    return row


async def alternate(
    sides: Sides, measure: Callable[[Side], Coroutine[Any, Any, T]]
) -> tuple[list[T], list[T]]:
    """ROUNDS measurements of each side, by turns."""
    results: tuple[list[T], list[T]] = ([], [])
    for _ in range(ROUNDS):
        for side, found in zip(sides, results, strict=True):
            found.append(await measure(side))
    return results


def latency_row(name: str, straight_s: list[float], router_s: list[float]) -> dict[str, Any]:
    row: dict[str, Any] = {"what": name}
    for label, share in (("p50", 0.5), ("p99", 0.99)):
        row[f"straight_{label}_ms"] = round(percentile_ms(straight_s, share), 3)
        row[f"router_{label}_ms"] = round(percentile_ms(router_s, share), 3)
        added = row[f"router_{label}_ms"] - row[f"straight_{label}_ms"]
        row[f"added_{label}_ms"] = round(added, 3)
    return row


def percentile_ms(times_s: list[float], share: float) -> float:
    return 1e3 * sorted(times_s)[min(len(times_s) - 1, int(share * len(times_s)))]


async def measure_streams(cluster: MockCluster, duration_s: float) -> dict[str, Any]:
    """Tokens relayed one event each, per second and per CPU second of the router."""
    cpu_began_s = cluster.router_cpu_s()
    load = await closed_loop(through_router(cluster.url, STREAM_TOKENS), NUM_STREAMS, duration_s)
    cpu_s = cluster.router_cpu_s() - cpu_began_s
    return {
        "streams": NUM_STREAMS,
        "tokens_per_s": round(load.events / load.took_s),
        "tokens_per_router_cpu_s": round(load.events / cpu_s),
        "router_cpu_share": round(cpu_s / load.took_s, 2),
    }


def show(rows: list[dict[str, Any]], streams: dict[str, Any]) -> None:
    print(
        f"{'':16} {'straight p50/p99':>18} {'router p50/p99':>18} {'added p50/p99 ms':>18}  req/s  CPU us"
    )
    for row in rows:
        cells = [
            f"{row[f'{side}_p50_ms']:.2f} / {row[f'{side}_p99_ms']:.2f}"
            for side in ("straight", "router", "added")
        ]
        rate = row.get("router_requests_per_s", "")
        cpu = row.get("router_cpu_us_per_request", "")
        print(f"{row['what']:16} {cells[0]:>18} {cells[1]:>18} {cells[2]:>18} {rate:>6} {cpu:>7}")
    print(
        f"{streams['streams']} streams: {streams['tokens_per_s']:,} tokens/s relayed, "
        f"{streams['tokens_per_router_cpu_s']:,} per CPU second of the router"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--strategy", default="least_loaded", help="one that sends whole requests")
    parser.add_argument("--duration", type=float, default=6.0, help="seconds of each measurement")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    num_prompt = len(Tokenizer.load(shipped_model()).encode(PROMPT))
    with mock_cluster(options.strategy) as cluster:
        sides = (
            straight(cluster.worker_urls, num_prompt),
            through_router(cluster.url, ANSWER_TOKENS),
        )
        rows = uvloop.run(measure_latency(sides, cluster, options.duration))
        streams = uvloop.run(measure_streams(cluster, options.duration))
    show(rows, streams)
    write_record(
        options.json,
        "what the router adds",
        ["mserve", "starlette", "uvicorn", "uvloop"],
        strategy=options.strategy,
        workers=NUM_WORKERS,
        prompt_tokens=num_prompt,
        latency=rows,
        streams=streams,
    )


if __name__ == "__main__":
    main()
