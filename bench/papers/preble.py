"""Preble (arXiv 2407.00023): five workloads that share prompts, E2 against what others do.

    python -m papers.preble [--only NAME ...] [--why] [--mooncake FILE] [--seeds N] [--processes N]  (in bench/)

Mistral 7B on four A6000, as in the paper's section 4, under traffic of the statistics of its section 2,
with groups of requests as popular as Zipf's law says, at rates from light load to beyond what round
robin can take. There are as many requests that what they share does not all fit into one worker's
memory, as in the paper's data sets; --why shows what that, and other things, are worth. With --mooncake
also that trace in three windows, on 4 and 8 H200 with Llama 3.1 8B at 0.7 requests/s each, which is 70%
of what they can take of it.

The paper reports mean latencies 1.5 to 14.5 times, and p99 2 to 10 times, below round robin's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from mserve.runtime.simulator.pools import WorkerOptions
from mserve.runtime.traffic.charts import Axis, Line
from mserve.runtime.traffic.workloads import PREBLE
from papers.experiment import (
    Figure,
    Ratio,
    Run,
    as_json,
    grouped,
    mean_of,
    parser_of,
    seeded,
    times_lower,
    windows,
    write_chart,
    write_figures,
)

QUESTION = "how much lower latencies E2 has than other rules where prompts are shared"
BASELINE = "round_robin"
STRATEGIES = (BASELINE, "sglang_cache_aware", "preble", "preble_live")
SHOWN = ("preble", "preble_live", "sglang_cache_aware")
ON_A_TRACE = (BASELINE, "least_loaded", *STRATEGIES[1:])
FIRST_SEED = 1
ZIPF = 1.1
A6000 = WorkerOptions(gpu="a6000", model="mistral-7b", page_size=128, chunk_tokens=2048)
H200 = WorkerOptions(page_size=512)
MOONCAKE_RATE = 0.7  # requests/s and worker
MOONCAKE_WINDOW = 4000  # requests
PUBLISHED = "the paper: mean 1.5 to 14.5 times, p99 2 to 10 times below round robin"


@dataclass(frozen=True, slots=True)
class Sweep:
    """How many requests a workload has, and at which rates they come, in requests/s."""

    num: int
    rates: tuple[float, ...]


SWEEPS = {
    "toolbench": Sweep(6000, (20, 30, 36)),
    "embodied-agent": Sweep(4000, (25, 40, 50)),
    "programming": Sweep(6000, (10, 15, 19)),
    "video-qa": Sweep(1500, (1.5, 3, 4)),
    "loogle": Sweep(800, (0.2, 0.4, 0.6, 0.8)),
}


@dataclass(frozen=True, slots=True)
class Gain:
    """How many times lower than round robin's a strategy's times to the whole answer are, and to the
    first token; over seeds."""

    workload: str
    rate: float
    strategy: str
    mean: Ratio
    p99: Ratio
    ttft: Ratio


@dataclass(frozen=True, slots=True)
class Case:
    """One thing about the traffic or the workers that might make a difference."""

    what: str
    num: int = 3000
    zipf: float | None = ZIPF  # None: groups have the sizes that the paper gives
    engine: WorkerOptions = field(default=A6000)


CASES = (
    Case("few beginnings", num=600),
    Case("five times as many"),
    Case("half the KV memory", engine=replace(A6000, memory_share=0.6)),
    Case("a quarter of it", engine=replace(A6000, memory_share=0.45)),
    Case("less popular favourites", zipf=0.8),
    Case("groups of the paper's sizes", zipf=None),
    Case("steps of 512 tokens", engine=replace(A6000, max_batch_tokens=512, chunk_tokens=512)),
)
WHY_RATES = {"toolbench": 30.0, "programming": 15.0}


def shared(workload: str, strategy: str, rate: float, case: Case) -> Run:
    spec = f"preble-{workload}:rate={rate:g},num={case.num},block=128"
    if case.zipf is not None:
        spec += f",zipf={case.zipf}"
    label = f"{workload}, {rate:g}/s, {strategy}"
    return Run(label, strategy, spec, {"workers": 4}, case.engine, is_warm=True)


def num_beginnings(workload: str, num: int) -> int:
    """Of Zipf's law: as many as the paper's mean size of a group makes of so many requests."""
    return max(1, round(num / PREBLE[workload].group.mean))


def shared_tokens(workload: str, num: int) -> float:
    """What a worker's memory would have to hold to have all that is shared."""
    of = PREBLE[workload]
    return of.root_tokens + num_beginnings(workload, num) * of.key_portion * of.prompt.mean


def gain(workload: str, rate: float, ours: Sequence[Figure], theirs: Sequence[Figure]) -> Gain:
    """Figures of the same seeds, in order."""
    strategy = ours[0].label.rpartition(", ")[2]
    mean = times_lower(ours, theirs, lambda figure: figure.jct_mean_s)
    p99 = times_lower(ours, theirs, lambda figure: figure.jct_p99_s)
    ttft = times_lower(ours, theirs, lambda figure: figure.ttft_mean_s)
    return Gain(workload, rate, strategy, mean, p99, ttft)


# --- the paper's figures ------------------------------------------------------------------------


def published(workload: str, seeds: range, num_processes: int) -> dict[str, object]:
    """The paper's setting: a workload at every rate."""
    sweep = SWEEPS[workload]
    case = Case("", num=sweep.num)
    runs = [
        seeded(shared(workload, strategy, rate, case), seeds)
        for rate in sweep.rates
        for strategy in STRATEGIES
    ]
    return reported(workload, _by_rate(sweep.rates, grouped(runs, num_processes)))


def reported(
    workload: str, by_rate: Mapping[float, Mapping[str, Sequence[Figure]]]
) -> dict[str, object]:
    """Rows and a chart of a workload's figures by rate and strategy; what is kept of them."""
    found = [
        gain(workload, rate, by[strategy], by[BASELINE])
        for rate, by in by_rate.items()
        for strategy in STRATEGIES[1:]
    ]
    chart(workload, by_rate)
    print_gains(found)
    return {
        "figures": [
            each for by in by_rate.values() for some in by.values() for each in as_json(some)
        ],
        "gains": as_json(found),
    }


def _by_rate(
    rates: Sequence[float], each: Sequence[Sequence[Figure]]
) -> dict[float, dict[str, Sequence[Figure]]]:
    rows = [each[at : at + len(STRATEGIES)] for at in range(0, len(each), len(STRATEGIES))]
    return {
        rate: dict(zip(STRATEGIES, row, strict=True)) for rate, row in zip(rates, rows, strict=True)
    }


def print_gains(found: Sequence[Gain]) -> None:
    """Rows of docs/papers.md: E2's mean and p99, and the means of the others."""
    by = {(each.workload, each.rate, each.strategy): each for each in found}
    for workload, rate in dict.fromkeys((each.workload, each.rate) for each in found):
        e2, live, theirs = (by[workload, rate, name] for name in SHOWN)
        print(f"| {workload}, {rate:g}/s | {e2.mean} | {e2.p99} | {live.mean} | {theirs.mean} |")


def chart(workload: str, by_rate: Mapping[float, Mapping[str, Sequence[Figure]]]) -> None:
    """Up to twice the most that E2 has: round robin may leave it."""
    means = {
        name: [(rate, mean_of(by[name], _jct_mean_s).mean) for rate, by in by_rate.items()]
        for name in STRATEGIES
    }
    top = 2 * max(mean for name in ("preble", "preble_live") for _, mean in means[name])
    lines = [Line(name, points, style) for style, (name, points) in enumerate(means.items())]
    x = Axis(f"{workload}: requests/s", 1.1 * max(by_rate), "{:g}".format)
    write_chart(f"preble-{workload}", workload, lines, x, Axis("", top, "{:.2g} s".format))


def _jct_mean_s(figure: Figure) -> float:
    return figure.jct_mean_s


# --- why ----------------------------------------------------------------------------------------


def explained(seeds: range, num_processes: int) -> dict[str, object]:
    """What E2 gains as one thing after the other is changed."""
    rows: list[dict[str, object]] = []
    for workload, rate in WHY_RATES.items():
        for case in CASES:
            runs = [
                seeded(shared(workload, strategy, rate, case), seeds)
                for strategy in (BASELINE, "preble")
            ]
            theirs, ours = grouped(runs, num_processes)
            found = gain(workload, rate, ours, theirs)
            rows.append({"workload": workload, "case": case.what, **_row_of(found, theirs, ours)})
            print(
                f"| {workload} | {case.what} | {found.mean} | {found.p99}"
                f" | {mean_of(theirs, _cached).mean:.0%}, {mean_of(ours, _cached).mean:.0%} |"
            )
    return {"rows": rows}


def _row_of(found: Gain, theirs: Sequence[Figure], ours: Sequence[Figure]) -> dict[str, object]:
    return {
        "gain": asdict(found),
        "cached": [mean_of(theirs, _cached).mean, mean_of(ours, _cached).mean],
    }


def _cached(figure: Figure) -> float:
    return figure.cached_share


# --- a real trace -------------------------------------------------------------------------------


def mooncake(path: str, num_windows: int, num_processes: int) -> dict[str, object]:
    """Where less is shared."""
    everything: list[Figure] = []
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
                num=MOONCAKE_WINDOW,
            )
            for name in ON_A_TRACE
        ]
        each = grouped([windows(run, num_windows) for run in runs], num_processes)
        everything += [figure for some in each for figure in some]
        for name, figures in zip(ON_A_TRACE, each, strict=True):
            print(
                f"| {workers} workers, `{name}`"
                f" | {mean_of(figures, lambda f: 1e3 * f.ttft_mean_s).mean:.0f} ms"
                f" | {mean_of(figures, _jct_mean_s).mean:.2f} s"
                f" | {mean_of(figures, lambda f: f.jct_p99_s).mean:.1f} s"
                f" | {mean_of(figures, _cached).mean:.0%} |"
            )
    return {"figures": as_json(everything)}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--only", nargs="*", choices=PREBLE, help="of the five workloads")
    parser.add_argument("--why", action="store_true", help="what Toolbench and programming need")
    parser.add_argument("--mooncake", metavar="FILE", help="its conversation trace")
    arguments = parser.parse_args()
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    workloads = list(PREBLE) if arguments.only is None else arguments.only
    for workload in workloads:
        found = published(workload, seeds, arguments.processes)
        write_figures(f"preble-{workload}", QUESTION, **found)
    print(PUBLISHED)
    if arguments.why:
        found = explained(seeds, arguments.processes)
        write_figures("preble-why", QUESTION, **found)
    if arguments.mooncake:
        found = mooncake(arguments.mooncake, arguments.seeds, arguments.processes)
        write_figures("preble-mooncake", QUESTION, **found)


if __name__ == "__main__":
    main()
