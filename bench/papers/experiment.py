"""One simulation of a paper's setting, several of them side by side, and what is kept of them.

Owns how a run is described, so that it can be run in a process of its own, and the figures' files.
Knows no paper: settings, published figures and what they mean are in the scripts beside it.
"""

import argparse
import itertools
import math
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, tostring

from mserve.compiler.pipeline import compile_strategy
from mserve.dsl.check import check_text
from mserve.runtime.simulator.comparison import Estimate
from mserve.runtime.simulator.hardware import load_hardware
from mserve.runtime.simulator.pools import WorkerOptions, plan_workers
from mserve.runtime.simulator.simulation import Simulation
from mserve.runtime.traffic.arrivals import Arrival, scaled
from mserve.runtime.traffic.charts import LEFT, WIDTH, Axis, Line, line_chart
from mserve.runtime.traffic.outcomes import Summary, summarize
from mserve.runtime.traffic.spec import traffic
from record import write_record

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RESULTS = Path(__file__).parents[1] / "results" / "papers"
COLOURS = ("#4477aa", "#ee6677", "#228833", "#aa3377", "#ccbb44", "#66ccee")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "1 2")
WARM_UP = 0.1  # the share of the requests that come first and are not counted: caches are empty


@dataclass(frozen=True, slots=True)
class Run:
    """What is simulated. `strategy` is a shipped one's name, or the text of another; `settings` those
    of its pools that its text leaves open. `rate` in requests/s scales a trace that has its own, of
    which the seed says nothing: other samples of it are other windows."""

    label: str
    strategy: str
    traffic: str
    cluster: Mapping[str, int]
    options: WorkerOptions
    seed: int = 1
    rate: float | None = None
    num: int | None = None  # requests, of a trace
    skip: int = 0  # of its requests, before those
    params: Mapping[str, float] = field(default_factory=dict)
    is_warm: bool = False  # what comes first is not counted


@dataclass(frozen=True, slots=True)
class Figure:
    """What a run came to. Times in seconds."""

    label: str
    seed: int
    rate: float  # requests/s that finished
    ttft_mean_s: float
    ttft_p99_s: float
    tpot_mean_s: float
    jct_mean_s: float
    jct_p99_s: float
    cached_share: float
    failed_share: float  # of the requests, mostly by the strategy's time limit; not in the times
    routes: Mapping[str, int]


def run_all(runs: Sequence[Run], num_processes: int) -> list[Figure]:
    """The runs' figures, in their order. Runs do not know of each other, so processes share them."""
    if num_processes == 1:
        return [_shown(simulate(run)) for run in runs]
    with multiprocessing.get_context("spawn").Pool(num_processes) as pool:
        return [_shown(figure) for figure in pool.imap(simulate, runs, chunksize=1)]


def _shown(figure: Figure) -> Figure:
    print(line_of(figure), flush=True)
    return figure


def grouped(runs: Sequence[Sequence[Run]], num_processes: int) -> list[list[Figure]]:
    """As `run_all`, of runs that belong together: the same of several seeds."""
    figures = iter(run_all([run for group in runs for run in group], num_processes))
    return [list(itertools.islice(figures, len(group))) for group in runs]


def seeded(run: Run, seeds: Iterable[int]) -> list[Run]:
    return [replace(run, seed=seed) for seed in seeds]


def windows(run: Run, num_windows: int) -> list[Run]:
    """The run over the first requests of a trace, and over those that follow them."""
    assert run.num is not None, "a window has a length"
    return [replace(run, seed=at, skip=at * run.num) for at in range(num_windows)]


def simulate(run: Run) -> Figure:
    strategy = compile_strategy(check_text(_source(run.strategy), f"{run.label}.mserve"))
    for name, value in run.params.items():
        strategy.set_param(name, value)
    specs = plan_workers(strategy.pools, run.cluster, run.options, load_hardware())
    outcomes = Simulation(strategy, specs).run(arrivals_of(run)).outcomes
    counted = outcomes[int(len(outcomes) * WARM_UP) :] if run.is_warm else outcomes
    return _figure(run, summarize(counted))


def _source(strategy: str) -> str:
    if "\n" in strategy:
        return strategy
    return (files("mserve.strategies") / f"{strategy}.mserve").read_text("utf-8")


def arrivals_of(run: Run) -> Iterable[Arrival]:
    arrivals = itertools.islice(traffic(run.traffic, seed=run.seed), run.skip, None)
    return scaled(_from_zero(arrivals), rate=run.rate, limit=run.num)


def _from_zero(arrivals: Iterator[Arrival]) -> Iterator[Arrival]:
    """What was skipped takes no time."""
    first = next(arrivals, None)
    if first is None:
        return
    for arrival in itertools.chain([first], arrivals):
        yield replace(arrival, at_s=arrival.at_s - first.at_s)


def _figure(run: Run, summary: Summary) -> Figure:
    assert summary.ttft is not None, "requests finish"
    assert summary.jct is not None, "requests finish"
    return Figure(
        run.label,
        run.seed,
        summary.request_rate,
        summary.ttft.mean,
        summary.ttft.p99,
        summary.tpot.mean if summary.tpot is not None else 0.0,
        summary.jct.mean,
        summary.jct.p99,
        summary.cached_share,
        summary.failed_share,
        summary.routes,
    )


Value = Callable[[Figure], float]


def mean_of(figures: Sequence[Figure], value: Value) -> Estimate:
    """Over seeds."""
    return Estimate.of([value(figure) for figure in figures])


@dataclass(frozen=True, slots=True)
class Ratio:
    """The geometric mean over seeds, and where it is with 95% certainty: ratios err by factors."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> "Ratio":
        log = Estimate.of([math.log(ratio) for ratio in ratios])
        bounds = log.mean, log.mean - log.margin, log.mean + log.margin
        return cls(*map(math.exp, bounds))

    def __str__(self) -> str:
        mean, low, high = (f"{x:.{0 if x >= 10 else 1}f}" for x in (self.mean, self.low, self.high))
        return mean if self.low == self.high else f"{mean} ({low} to {high})"


def times_lower(ours: Sequence[Figure], theirs: Sequence[Figure], value: Value) -> Ratio:
    """How many times lower ours is, seed by seed: both had the same traffic."""
    return Ratio.of([value(b) / value(a) for a, b in zip(ours, theirs, strict=True)])


def spelled(estimate: Estimate, unit: str = "", digits: int = 2) -> str:
    margin = f" ± {estimate.margin:.{digits}f}" if estimate.margin else ""
    return f"{estimate.mean:.{digits}f}{margin}{unit}"


def line_of(figure: Figure) -> str:
    return (
        f"{f'{figure.label}, seed {figure.seed}':<52} TTFT {figure.ttft_mean_s:7.3f} s, p99 {figure.ttft_p99_s:7.3f} s"
        f"  TPOT {figure.tpot_mean_s * 1e3:5.1f} ms"
        f"  JCT {figure.jct_mean_s:6.2f} s, p99 {figure.jct_p99_s:6.2f} s"
        f"  cached {figure.cached_share:.0%}"
        + (f"  failed {figure.failed_share:.0%}" if figure.failed_share else "")
    )


# --- files --------------------------------------------------------------------------------------


def write_figures(name: str, question: str, **figures: object) -> None:
    """To NAME.json beside the other papers' results."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_record(RESULTS / f"{name}.json", question, ["mserve"], **figures)


def as_json(found: Iterable["DataclassInstance"]) -> list[dict[str, object]]:
    return [asdict(each) for each in found]


def write_chart(name: str, title: str, lines: Sequence[Line], x: Axis, y: Axis) -> None:
    """To NAME.svg, an image that needs no page around it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    svg = line_chart(title, lines, x, y)
    svg.set("xmlns", "http://www.w3.org/2000/svg")
    style = Element("style")
    style.text = _style()
    svg.insert(0, style)
    for index, line in enumerate(lines):
        _legend(svg, line, 26 + 16 * index)
    (RESULTS / f"{name}.svg").write_bytes(tostring(svg) + b"\n")


def _legend(svg: Element, line: Line, at: int) -> None:
    left, right = str(LEFT + 12), str(LEFT + 40)
    ends = {"x1": left, "x2": right, "y1": str(at), "y2": str(at)}
    SubElement(svg, "line", {"class": f"line line-{line.style}", **ends})
    text = SubElement(svg, "text", {"x": str(LEFT + 46), "y": str(at + 4)})
    text.text = line.name


def _style() -> str:
    rules = [
        f".chart {{ background: #fff; width: {WIDTH}px; }}",
        "text { font: 12px sans-serif; fill: #444; }",
        ".grid { stroke: #ddd; }",
        ".line { fill: none; stroke-width: 2; }",
    ]
    for index, (colour, dash) in enumerate(zip(COLOURS, DASHES, strict=True)):
        rules.append(f".line-{index} {{ stroke: {colour}; stroke-dasharray: {dash or 'none'}; }}")
    return " ".join(rules)


def parser_of(doc: str) -> argparse.ArgumentParser:
    """What all scripts take."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    return parser
