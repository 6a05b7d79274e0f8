"""Preble (arXiv 2407.00023): five workloads that share prompts, E2 against what others do.

    python -m papers.preble [--only NAME ...] [--mooncake FILE] [--num N] [--processes N]  (in bench/)

Mistral 7B on four A6000, as in the paper's section 4, under traffic of the statistics of its section 2,
with groups of requests as popular as Zipf's law says. A load is a share of what E2 by outstanding work
gets done when all requests are there at once. With --mooncake also that trace, on 4 and 8 H200 with
Llama 3.1 8B at 0.7 requests/s each, which is 70% of what they can take of it.

The paper reports mean latencies 1.5 to 14.5 times, and p99 2 to 10 times, below round robin's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mserve.runtime.simulator.pools import WorkerOptions
from mserve.runtime.traffic.charts import Axis, Line
from mserve.runtime.traffic.workloads import PREBLE
from papers.experiment import Figure, Run, as_json, parser_of, run_all, write_chart, write_figures

QUESTION = "how much lower latencies E2 has than other rules where prompts are shared"
OURS = ("preble", "preble_live")
OTHERS = ("round_robin", "least_loaded", "sglang_cache_aware")
STRATEGIES = (*OTHERS, *OURS)
LOADS = (0.7, 0.9)
AT_ONCE = 1e6  # requests/s
ZIPF = 1.1
A6000 = WorkerOptions(gpu="a6000", model="mistral-7b", page_size=128, chunk_tokens=2048)
H200 = WorkerOptions(page_size=512)
MOONCAKE_RATE = 0.7  # requests/s and worker
PUBLISHED = "the paper: mean 1.5 to 14.5 times, p99 2 to 10 times below round robin"


@dataclass(frozen=True, slots=True)
class Gain:
    """How many times lower than the other's a strategy's times to the whole answer are."""

    workload: str
    load: float
    strategy: str
    against: str
    mean: float
    p99: float
    ttft_mean: float


def shared(workload: str, strategy: str, rate: float, num: int, load: float) -> Run:
    spec = f"preble-{workload}:rate={rate:.6g},num={num},zipf={ZIPF},block=128"
    label = f"{workload}, {load:.0%}, {strategy}"
    return Run(label, strategy, spec, {"workers": 4}, A6000, is_warm=True)


def capacities(workloads: Sequence[str], num: int, num_processes: int) -> Mapping[str, float]:
    """Requests/s, by workload, that E2 gets done of a crowd."""
    runs = [shared(name, "preble_live", AT_ONCE, num, 1.0) for name in workloads]
    figures = run_all(runs, num_processes)
    return {name: figure.rate for name, figure in zip(workloads, figures, strict=True)}


def gains(workload: str, load: float, figures: Mapping[str, Figure]) -> list[Gain]:
    """Of E2 over each of the others; `figures` by strategy."""
    found = []
    for ours in OURS:
        for other in OTHERS:
            a, b = figures[ours], figures[other]
            mean, p99 = b.jct_mean_s / a.jct_mean_s, b.jct_p99_s / a.jct_p99_s
            ttft = b.ttft_mean_s / a.ttft_mean_s
            found.append(Gain(workload, load, ours, other, mean, p99, ttft))
    return found


def print_gains(found: Sequence[Gain]) -> None:
    for gain in found:
        print(
            f"  {gain.workload:<14} {gain.load:4.0%}  {gain.strategy:<12} below {gain.against:<19}"
            f" mean {gain.mean:6.2f}x  p99 {gain.p99:6.2f}x  TTFT {gain.ttft_mean:6.2f}x"
        )


def chart(workload: str, figures: Mapping[float, Mapping[str, Figure]]) -> None:
    top = max(by[name].jct_mean_s for by in figures.values() for name in (*OURS, OTHERS[1]))
    lines = [
        Line(name, [(load, by[name].jct_mean_s) for load, by in figures.items()], style)
        for style, name in enumerate(STRATEGIES)
    ]
    x = Axis(f"{workload}: load", 1.0, "{:.0%}".format)
    write_chart(f"preble-{workload}", workload, lines, x, Axis("", 1.5 * top, "{:g} s".format))


def published(workloads: Sequence[str], num: int, num_processes: int) -> dict[str, object]:
    """The paper's setting, every workload at every load."""
    rates = capacities(workloads, num, num_processes)
    everything: list[Figure] = []
    found: list[Gain] = []
    for workload in workloads:
        by_load = {}
        for load in LOADS:
            runs = [shared(workload, s, load * rates[workload], num, load) for s in STRATEGIES]
            figures = run_all(runs, num_processes)
            everything += figures
            by_load[load] = dict(zip(STRATEGIES, figures, strict=True))
            found += gains(workload, load, by_load[load])
        chart(workload, by_load)
    print_gains(found)
    print(PUBLISHED)
    return {"capacity_per_s": rates, "figures": as_json(everything), "gains": as_json(found)}


def mooncake(path: str, num: int, num_processes: int) -> dict[str, object]:
    """A real trace, where less is shared."""
    everything: list[Figure] = []
    found: list[Gain] = []
    for workers in (4, 8):
        rate = MOONCAKE_RATE * workers
        runs = [
            Run(
                f"mooncake, {workers} workers, {name}",
                name,
                path,
                {"workers": workers},
                H200,
                rate=rate,
                num=num,
            )
            for name in STRATEGIES
        ]
        figures = run_all(runs, num_processes)
        everything += figures
        by_strategy = dict(zip(STRATEGIES, figures, strict=True))
        found += gains(f"mooncake, {workers}", MOONCAKE_RATE, by_strategy)
    print_gains(found)
    return {"figures": as_json(everything), "gains": as_json(found)}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--only", nargs="*", choices=PREBLE, help="of the five workloads")
    parser.add_argument("--mooncake", metavar="FILE", help="its conversation trace")
    parser.add_argument("--num", type=int, default=1000, help="requests (default: %(default)s)")
    arguments = parser.parse_args()
    workloads = list(PREBLE) if arguments.only is None else arguments.only
    figures: dict[str, object] = {}
    if workloads:
        figures["published"] = published(workloads, arguments.num, arguments.processes)
    if arguments.mooncake:
        figures["mooncake"] = mooncake(arguments.mooncake, 4000, arguments.processes)
    write_figures("preble", QUESTION, **figures)


if __name__ == "__main__":
    main()
