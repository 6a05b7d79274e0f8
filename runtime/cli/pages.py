"""What `mserve simulate`, `mserve compare` and `mserve bench` write with --html.

Says of each page what was run and how to repeat it, from the command line. Knows no figures and no HTML:
runtime/traffic/page.py has them.
"""

import argparse
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from mserve.runtime.cli.cases import Case, Column, summaries, swept_runs
from mserve.runtime.cli.output import goals_of, seeds_of, write_text
from mserve.runtime.cli.remarks import seeds_in_words
from mserve.runtime.cli.sweeps import Sweep

if TYPE_CHECKING:
    from mserve.runtime.simulator.lanes import LaneRecorder
    from mserve.runtime.simulator.results import Result
    from mserve.runtime.traffic.charts import Mark
    from mserve.runtime.traffic.outcomes import Goals, Outcome

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]*@")


def write_simulation(
    arguments: argparse.Namespace, case: Case, result: "Result", recorder: "LaneRecorder"
) -> None:
    """Raises ConfigError, as all of these."""
    from mserve.runtime.traffic.page import About, write_page

    name, goals = case.name, goals_of(arguments)
    about = About(
        settings=_simulated(arguments, [case], str(arguments.seed)),
        command=_command(arguments),
        facts={name: [*_facts(result, goals), *_outliers(result), ("digest", result.digest)]},
        events=_events([result]),
        lanes={name: recorder.lanes(result)},
    )
    page = write_page(f"{name}, simulated", {name: result.outcomes}, goals, about)
    write_text(arguments.html, page)


def write_sweep(arguments: argparse.Namespace, column: Column, sweep: Sweep) -> None:
    """Of one strategy."""
    from mserve.runtime.simulator.comparison import certainty, compared_over_seeds
    from mserve.runtime.traffic.curves import Swept
    from mserve.runtime.traffic.page import About, write_page

    goals, case = goals_of(arguments), column.case
    named = dict(zip([point.name for point in sweep.points], column.results, strict=True))
    firsts = {name: results[0] for name, results in named.items()}
    about = About(
        notes=[*_on_seeds(arguments.seeds), *_taken([column], sweep, arguments)],
        settings=_simulated(arguments, [case], _seeds(arguments)),
        command=_command(arguments),
        facts={name: list(_facts(result, goals)) for name, result in firsts.items()},
        further=_further(named),
        figures=compared_over_seeds(
            {name: summaries(results, goals) for name, results in named.items()}, goals
        ),
        certainty=certainty(arguments.seeds),
        events=_events(firsts.values()),
        swept=Swept(sweep.param, sweep.texts, sweep.axis),
    )
    outcomes = {name: result.outcomes for name, result in firsts.items()}
    title = f"{case.name} {_over(sweep)}, simulated"
    write_text(arguments.html, write_page(title, outcomes, goals, about))


def write_comparison(
    arguments: argparse.Namespace,
    columns: Sequence[Column],
    sweep: Sweep,
    split_lines: Sequence[str] = (),
) -> None:
    """With what splits of workers came to, if some were tried."""
    write = _write_swept if arguments.sweep else _write_side_by_side
    write(arguments, columns, sweep, split_lines)


def _write_side_by_side(
    arguments: argparse.Namespace,
    columns: Sequence[Column],
    _: Sweep,
    split_lines: Sequence[str],
) -> None:
    from mserve.runtime.simulator.comparison import certainty, compared_over_seeds
    from mserve.runtime.simulator.lanes import lanes_of_each
    from mserve.runtime.traffic.page import About, write_page
    from mserve.runtime.traffic.verdicts import enumerated

    goals = goals_of(arguments)
    runs = {each.case.name: each.results[0] for each in columns}
    about = About(
        notes=[*_on_seeds(arguments.seeds), *split_lines],
        settings=_simulated(arguments, [each.case for each in columns], _seeds(arguments)),
        command=_command(arguments),
        facts={name: list(_facts(each[0], goals)) for name, each in runs.items()},
        further=_further(runs),
        figures=compared_over_seeds(
            {name: summaries(each, goals) for name, each in runs.items()}, goals
        ),
        certainty=certainty(arguments.seeds),
        events=_events(each[0] for each in runs.values()),
        lanes={
            each.case.name: each.recorder.lanes(each.results[0][0], lanes_of_each(len(runs)))
            for each in columns
            if each.recorder is not None
        },
    )
    title = f"{enumerated(list(runs))}, simulated"
    first = {name: each[0].outcomes for name, each in runs.items()}
    write_text(arguments.html, write_page(title, first, goals, about))


def _write_swept(
    arguments: argparse.Namespace,
    columns: Sequence[Column],
    sweep: Sweep,
    split_lines: Sequence[str],
) -> None:
    from mserve.runtime.simulator.comparison import certainty
    from mserve.runtime.simulator.sweeps import KEPT
    from mserve.runtime.traffic.page import About
    from mserve.runtime.traffic.sweep_page import write_sweep_page
    from mserve.runtime.traffic.verdicts import enumerated

    names = [each.case.name for each in columns]
    about = About(
        notes=[*_means(arguments.seeds), certainty(arguments.seeds), *split_lines],
        settings=_simulated(arguments, [each.case for each in columns], _seeds(arguments)),
        command=_command(arguments),
    )
    over = swept_runs(columns, sweep, goals_of(arguments))
    title = f"{enumerated(names)} {_over(sweep)}, simulated"
    answer = _taken(columns, sweep, arguments)
    page = write_sweep_page(title, over.names, over.swept(), over.figures(), answer, about, KEPT)
    write_text(arguments.html, page)


def _further(runs: "Mapping[str, Sequence[Result]]") -> "dict[str, list[Outcome]]":
    """What became of the requests of all seeds but the first."""
    return {
        name: [outcome for result in each[1:] for outcome in result.outcomes]
        for name, each in runs.items()
    }


def _over(sweep: Sweep) -> str:
    return f"with {sweep.param} from {sweep.texts[0]} to {sweep.texts[-1]}"


def _taken(columns: Sequence[Column], sweep: Sweep, arguments: argparse.Namespace) -> list[str]:
    """How much load each strategy takes, where the rate is swept and there are goals."""
    from mserve.runtime.simulator.sweeps import taken_head, taken_rows, too_brief

    over = swept_runs(columns, sweep, goals_of(arguments))
    rows = taken_rows(over) if sweep.is_of_rate else []
    if not rows:
        return []
    words = "; ".join(f"{name}: {taken}" for name, taken in rows)
    answer = f"{taken_head(over).capitalize()}. {words}."
    return list(filter(None, [answer, too_brief(over)]))


def write_measurement(
    arguments: argparse.Namespace,
    model: str,
    runs: "Mapping[str, Sequence[Outcome]]",
    goals: "Goals | None",
    notes: Sequence[str],
) -> None:
    from mserve.runtime.traffic.page import About, write_page
    from mserve.runtime.traffic.report import ONE_RUN
    from mserve.runtime.traffic.winners import RULE

    settings = {"server": _public(arguments.url), "model": model, **_traffic(arguments)}
    if arguments.seed is None:
        settings["seed"] = "0 for arrivals; prompts were new (--seed 0 repeats them)"
    else:
        settings["seed"] = str(arguments.seed)
    about = About(notes, settings, _command(arguments), certainty=f"{RULE}. {ONE_RUN}")
    write_text(arguments.html, write_page(f"{model}, measured", runs, goals, about))


# --- what was run -------------------------------------------------------------------------------


def _command(arguments: argparse.Namespace) -> str:
    return _public(shlex.join(["mserve", *arguments.command_line]))


def _public(text: str) -> str:
    """Without names and passwords in addresses: pages are passed on."""
    return _CREDENTIALS.sub("", text)


def _traffic(arguments: argparse.Namespace) -> dict[str, str]:
    changes = {
        "rate": "{:g} requests a second",
        "speed": "{:g} times as fast",
        "limit": "the first {:,}",
        "duration": "those before {}",
        "concurrency": "{} at once",
    }
    words = [arguments.trace]
    for name, form in changes.items():
        value = getattr(arguments, name, None)
        if value is not None:
            words.append(form.format(value))
    return {"traffic": "; ".join(words)}


def _seeds(arguments: argparse.Namespace) -> str:
    """`0`, `0 to 2`."""
    seeds = seeds_of(arguments)
    return str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"


def _simulated(arguments: argparse.Namespace, cases: Sequence[Case], seed: str) -> dict[str, str]:
    """Cluster, traffic and seed."""
    settings = {**_traffic(arguments), "cluster": _cluster(cases)}
    if arguments.profile is not None:
        settings["workers"] = f"as measured in {arguments.profile}"
    else:
        num = arguments.gpus_per_worker
        settings["GPU"] = arguments.gpu if num is None else f"{num} x {arguments.gpu} per worker"
        settings["model"] = f"{arguments.model}, {arguments.weights}"
        settings["link"] = arguments.link
    for name, given in (("params", arguments.set), ("faults", arguments.fault)):
        if given:
            settings[name] = ", ".join(given)
    name = "seed" if seed.isdecimal() else "seeds"
    return {**settings, name: seeds_in_words(arguments, seed)}


def _cluster(cases: Sequence[Case]) -> str:
    """`5+3 workers, 8 GPUs (prefill+decode)`; of several strategies, each one's."""
    if len(cases) > 1:
        return "; ".join(f"{each.name}: {each.size}" for each in cases)
    (case,) = cases
    return f"{case.size} ({'+'.join(case.size.workers)})"


def _means(num_seeds: int) -> list[str]:
    """One sentence, if there are several."""
    words = f"Figures are means over {num_seeds} seeds, with how far off they may be (95%)."
    return [words] if num_seeds > 1 else []


def _on_seeds(num_seeds: int) -> list[str]:
    """What is of all seeds, and what of the first."""
    rest = " Distributions have the requests of all seeds; load and what stands below it are of the first."
    return [words + rest for words in _means(num_seeds)]


def _facts(result: "Result", goals: "Goals | None") -> Iterable[tuple[str, str]]:
    from mserve.runtime.simulator.report import result_facts

    return result_facts(result, goals)


def _outliers(result: "Result") -> Iterable[tuple[str, str]]:
    from mserve.runtime.simulator.outliers import outlier_facts

    return outlier_facts(result.outcomes, result.failures)


def _events(results: "Iterable[Result]") -> list["Mark"]:
    """Faults, each once: runs of the same workers have the same ones."""
    from mserve.runtime.traffic.charts import Mark

    found = {(each.at_s, str(each)) for result in results for each in result.faults}
    return [Mark(at_s, words) for at_s, words in sorted(found)]
