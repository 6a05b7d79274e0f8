"""Which strategy is best, and what else was tried? Variants side by side, under traffic of three kinds.

    python bench/strategy_search.py [--on TRAFFIC ...] [--tried NAME] [--mooncake FILE] [--seeds N]

Two workers of four H100 each, Llama 3.1 70B in FP8, as in bench/papers/microserving.py: equal prompts
(microserving), a few long ones among short ones (mix), and with --mooncake that trace's conversations,
as many as two such workers can hardly take; the latter also on four H200 with Llama 3.1 8B. A trace is
taken in windows instead of seeds. Compares shipped strategies, or with --tried what was tried on the way
to one of them. Prints rows of docs/papers.md: means over seeds, and by how much they may be off (95%).

Seeds begin at 1 to search with; --first-seed 4 for others, to judge what was found.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mserve.runtime.simulator.pools import WorkerOptions
from papers.experiment import (
    Figure,
    Run,
    Value,
    as_json,
    grouped,
    mean_of,
    parser_of,
    seeded,
    spelled,
    windows,
    write_figures,
)
from papers.microserving import ENGINE
from strategy_variants import CHUNKED, SHIPPED, SOONER, source

QUESTION = "which strategy is best, and what else was tried"
TRIED = {"chunked": CHUNKED, "sooner": SOONER}


@dataclass(frozen=True, slots=True)
class Setting:
    """Traffic, and who serves it. Without `spec` it is the trace that is given."""

    num_workers: int
    engine: WorkerOptions
    num: int  # requests; of a trace, in a window
    spec: str = ""
    rate: float | None = None  # requests/s of a trace


SETTINGS = {
    "microserving": Setting(2, ENGINE, 2000, "poisson:rate=5.6,input=3000,output=100"),
    "mix": Setting(2, ENGINE, 2000, "mix:rate=10"),
    "mooncake": Setting(2, ENGINE, 1000, rate=0.8),
    "mooncake-8b": Setting(4, WorkerOptions(page_size=512), 3000, rate=2.8),
}
COLUMNS: Mapping[str, tuple[Value, str, int]] = {
    "mean time to first token": (lambda figure: 1e3 * figure.ttft_mean_s, " ms", 0),
    "per token": (lambda figure: 1e3 * figure.tpot_mean_s, " ms", 1),
    "mean of the whole answer": (lambda figure: figure.jct_mean_s, " s", 2),
    "p99": (lambda figure: figure.jct_p99_s, " s", 2),
}


def cluster_of(text: str, num_workers: int) -> Mapping[str, int]:
    """All in one pool, or half of them for prompts and half for answers."""
    if "pool workers" in text:
        return {"workers": num_workers}
    return {"prefill": num_workers // 2, "decode": num_workers - num_workers // 2}


def runs_of(name: str, text: str, setting: Setting, trace: str, seeds: range) -> list[Run]:
    cluster = cluster_of(text, setting.num_workers)
    if setting.spec:
        spec = f"{setting.spec},num={setting.num}"
        return seeded(Run(name, text, spec, cluster, setting.engine), seeds)
    run = Run(name, text, trace, cluster, setting.engine, rate=setting.rate, num=setting.num)
    return windows(run, len(seeds))


def searched(
    setting: Setting, variants: Mapping[str, str], trace: str, seeds: range, num_processes: int
) -> dict[str, list[Figure]]:
    """The figures of each variant, by seed."""
    runs = [runs_of(name, text, setting, trace, seeds) for name, text in variants.items()]
    return dict(zip(variants, grouped(runs, num_processes), strict=True))


def table(found: Mapping[str, Sequence[Figure]]) -> list[str]:
    """Rows of Markdown."""
    lines = [f"| | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    for name, figures in found.items():
        cells = [
            spelled(mean_of(figures, value), unit, digits)
            for value, unit, digits in COLUMNS.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def variants_of(tried: str | None) -> dict[str, str]:
    if tried is None:
        return {f"`{name}`": source(name) for name in SHIPPED}
    return dict(TRIED[tried])


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    parser.add_argument("--on", nargs="+", choices=SETTINGS, default=["microserving", "mix"])
    parser.add_argument(
        "--tried",
        choices=TRIED,
        help="what was tried on the way to deflect_chunked, or to deflect_sooner",
    )
    parser.add_argument("--mooncake", metavar="FILE", help="its conversation trace")
    parser.add_argument("--first-seed", type=int, default=1, help="(default: %(default)s)")
    return parser


def main() -> None:
    parser = _parser()
    arguments = parser.parse_args()
    settings = {name: SETTINGS[name] for name in arguments.on}
    if not arguments.mooncake and any(not setting.spec for setting in settings.values()):
        parser.error("--mooncake FILE says where the trace is.")
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    variants = variants_of(arguments.tried)
    for name, setting in settings.items():
        found = searched(setting, variants, arguments.mooncake, seeds, arguments.processes)
        print(f"\n{name}\n", *table(found), sep="\n")
        record = f"search-{name}-{arguments.tried}" if arguments.tried else f"search-{name}"
        figures = {variant: as_json(each) for variant, each in found.items()}
        write_figures(record, QUESTION, seeds=list(seeds), figures=figures)


if __name__ == "__main__":
    main()
