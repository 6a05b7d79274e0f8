"""What `mserve simulate`, `mserve compare` and `mserve bench` write with --html.

Says of each page what was run and how to repeat it, from the command line. Knows no figures and no HTML:
runtime/traffic/page.py has them.
"""

import argparse
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from mserve.runtime.cli.output import goals_of, write_text

if TYPE_CHECKING:
    from mserve.runtime.simulator.lanes import LaneRecorder
    from mserve.runtime.simulator.results import Result
    from mserve.runtime.traffic.charts import Mark
    from mserve.runtime.traffic.outcomes import Goals, Outcome

_ONE_SEED = "One seed: small differences may be chance. With --seeds 3 it says how sure they are."
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]*@")


def write_simulation(
    arguments: argparse.Namespace, strategy: str, result: "Result", recorder: "LaneRecorder"
) -> None:
    """Raises ConfigError, as all of these."""
    from mserve.runtime.traffic.page import About, write_page

    about = About(
        settings=_simulated(arguments, str(arguments.seed)),
        command=_command(arguments),
        facts={strategy: [*_facts(result), *_outliers(result), ("digest", result.digest)]},
        events=_events([result]),
        lanes={strategy: recorder.lanes(result)},
    )
    page = write_page(
        f"{strategy}, simulated", {strategy: result.outcomes}, goals_of(arguments), about
    )
    write_text(arguments.html, page)


def write_sweep(
    arguments: argparse.Namespace, strategy: str, param: str, results: "Mapping[str, Result]"
) -> None:
    """`results` by how the param's values are spelled, in their order."""
    from mserve.runtime.traffic.curves import Swept
    from mserve.runtime.traffic.page import About, write_page

    named = {f"{param}={value}": result for value, result in results.items()}
    values = list(results)
    about = About(
        settings=_simulated(arguments, str(arguments.seed)),
        command=_command(arguments),
        facts={name: list(_facts(result)) for name, result in named.items()},
        events=_events(results.values()),
        swept=Swept(param, values),
    )
    outcomes = {name: result.outcomes for name, result in named.items()}
    title = f"{strategy} with {param} from {values[0]} to {values[-1]}, simulated"
    write_text(arguments.html, write_page(title, outcomes, goals_of(arguments), about))


def write_comparison(
    arguments: argparse.Namespace,
    runs: "Mapping[str, Sequence[Result]]",
    recorders: "Mapping[str, LaneRecorder]",
) -> None:
    """Of every strategy, a result for each seed, and what the first one's workers did."""
    from mserve.runtime.simulator.comparison import compared_over_seeds
    from mserve.runtime.simulator.lanes import lanes_of_each
    from mserve.runtime.traffic.outcomes import summarize
    from mserve.runtime.traffic.page import About, write_page
    from mserve.runtime.traffic.verdicts import enumerated

    goals = goals_of(arguments)
    num_seeds = arguments.seeds
    summaries = {
        name: [summarize(result.outcomes, goals) for result in each] for name, each in runs.items()
    }
    about = About(
        notes=_on_seeds(num_seeds),
        settings=_simulated(arguments, "0" if num_seeds == 1 else f"0 to {num_seeds - 1}"),
        command=_command(arguments),
        facts={name: list(_facts(each[0])) for name, each in runs.items()},
        further={
            name: [outcome for result in each[1:] for outcome in result.outcomes]
            for name, each in runs.items()
        },
        figures=compared_over_seeds(summaries, goals),
        events=_events(each[0] for each in runs.values()),
        lanes={
            name: recorders[name].lanes(each[0], lanes_of_each(len(runs)))
            for name, each in runs.items()
        },
    )
    title = f"{enumerated(list(runs))}, simulated"
    first = {name: each[0].outcomes for name, each in runs.items()}
    write_text(arguments.html, write_page(title, first, goals, about))


def write_measurement(
    arguments: argparse.Namespace,
    model: str,
    runs: "Mapping[str, Sequence[Outcome]]",
    goals: "Goals | None",
    notes: Sequence[str],
) -> None:
    from mserve.runtime.traffic.page import About, write_page

    settings = {"server": _public(arguments.url), "model": model, **_traffic(arguments)}
    if arguments.seed is None:
        settings["seed"] = "0 for arrivals; prompts were new (--seed 0 repeats them)"
    else:
        settings["seed"] = str(arguments.seed)
    about = About(notes, settings, _command(arguments))
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


def _simulated(arguments: argparse.Namespace, seed: str) -> dict[str, str]:
    """Cluster, traffic and seed. Workers are counted in each run's facts."""
    settings = _traffic(arguments)
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
    return {**settings, "seed" if seed.isdecimal() else "seeds": seed}


def _on_seeds(num_seeds: int) -> list[str]:
    if num_seeds == 1:
        return [_ONE_SEED]
    words = (
        f"Figures are means over {num_seeds} seeds, with how far off they may be (95%); the best is"
        " who is best with every seed. Distributions have the requests of all seeds; load and"
        " what stands below it are of the first."
    )
    return [words]


def _facts(result: "Result") -> Iterable[tuple[str, str]]:
    from mserve.runtime.simulator.report import result_facts

    return result_facts(result)


def _outliers(result: "Result") -> Iterable[tuple[str, str]]:
    from mserve.runtime.simulator.outliers import outlier_facts

    return outlier_facts(result.outcomes)


def _events(results: "Iterable[Result]") -> list["Mark"]:
    """Faults, each once: runs of the same workers have the same ones."""
    from mserve.runtime.traffic.charts import Mark

    found = {(each.at_s, str(each)) for result in results for each in result.faults}
    return [Mark(at_s, words) for at_s, words in sorted(found)]
