"""Runs as one self-contained page: who wins, figures side by side, distributions, load over time.

Nothing is loaded from anywhere; it follows the reader's colour scheme. Input as in report.py. Owns what
the page shows, and in which order; how it looks is pagestyle.py's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from xml.etree.ElementTree import Element, SubElement

from mserve import __version__
from mserve.runtime.traffic import markup
from mserve.runtime.traffic.charts import Mark
from mserve.runtime.traffic.curves import (
    LoadChart,
    Runs,
    Swept,
    latencies,
    latency_chart,
    load_chart,
    sweep_chart,
)
from mserve.runtime.traffic.lanes import Lanes, lane_chart, lane_legend, patterns
from mserve.runtime.traffic.markup import Cell
from mserve.runtime.traffic.outcomes import Distribution, Goals, Summary, summarize
from mserve.runtime.traffic.pagestyle import page_style
from mserve.runtime.traffic.report import (
    DISTRIBUTIONS,
    Compared,
    compared,
    goals_text,
    rate_text,
    run_facts,
    seconds_text,
    share_text,
)
from mserve.runtime.traffic.series import arrival_rate, coarse_width_s, fine_width_s, running
from mserve.runtime.traffic.verdicts import in_a_sentence, verdicts
from mserve.runtime.traffic.winners import RULE

_SWEPT = {  # the figure of a group that is drawn
    "goodput": "share",
    "throughput": "output tokens",
    "price": "per million output tokens",
}
_MAX_OPEN = 4  # runs whose facts are shown without being asked for
_LANES = (
    "How much of the time each one has a step under way. Shares beside a name are of the time from the"
    " first arrival to the last answer's end."
)
OTHER_TRAFFIC = "These runs had different requests, so figures differ for that alone, too."


@dataclass(frozen=True, slots=True)
class About:
    """What a page says beside what became of requests.

    `notes` are sentences and `settings` names with words, for under the title. `command` repeats the
    runs. `facts` are more rows on single runs. `further` has the outcomes of other seeds, which count in
    distributions, and `figures` those over all seeds. `events` are marked at seconds of the run; `lanes`
    are of workers, by run. `certainty` says whom verdicts name, and what that is worth.
    """

    notes: Sequence[str] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    facts: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    further: Runs = field(default_factory=dict)
    figures: Sequence[Compared] | None = None
    events: Sequence[Mark] = ()
    lanes: Mapping[str, Lanes] = field(default_factory=dict)
    swept: Swept | None = None
    certainty: str = f"{RULE}."


def write_page(
    title: str, runs: Runs, goals: Goals | None = None, about: About | None = None
) -> str:
    """HTML."""
    about = about or About()
    style = page_style(len(runs), is_ordered=about.swept is not None)
    html, main = markup.document(title, style)
    summaries = [summarize(outcomes, goals) for outcomes in runs.values()]
    figures = compared(summaries, goals) if about.figures is None else about.figures
    _introduction(main, runs, about)
    if len(runs) > 1:
        _verdicts(main, list(runs), figures, about.certainty)
    elif (
        about.figures is None
    ):  # with other seeds beside it, a run's own figures are not the answer
        markup.tiles(main, [tile for summary in summaries for tile in _tiles(summary)])
    if about.swept is not None:
        _sweep(main, figures, about.swept)
    _figures(main, runs, figures, goals, about)
    _load(main, runs, about.events)
    _workers(main, about.lanes)
    _facts(main, dict(zip(runs, summaries, strict=True)), about)
    origin(main, about)
    return markup.written(html)


def _introduction(main: Element, runs: Runs, about: About) -> None:
    if about.settings:
        markup.settings(main, about.settings)
    if len(runs) > 1:
        markup.legend(main, ((name, index) for index, name in enumerate(runs)))
    for note in (*about.notes, *_doubts(runs)):
        markup.say(main, "p", note)


def _doubts(runs: Runs) -> Iterable[str]:
    """Runs of the same traffic have prompts of the same lengths."""
    lengths = {tuple(sorted(outcome.num_prompt for outcome in each)) for each in runs.values()}
    if len(lengths) > 1:
        yield OTHER_TRAFFIC


# --- the answer ---------------------------------------------------------------------------------


def _verdicts(
    main: Element, names: Sequence[str], figures: Sequence[Compared], certainty: str
) -> None:
    found = verdicts(names, figures)
    if not found:
        return
    markup.say(main, "h2", "Which is best")
    markup.say(main, "p", in_a_sentence(names, found), "answer")
    markup.say(main, "p", certainty)
    body = markup.table(main, ("", "best", "with", "which is"), (0, 1, 3), "verdicts")
    for each in found:
        row = SubElement(body, "tr")
        name = f"{each.figure.group}, {each.figure.name}"
        SubElement(row, "th", {"scope": "row"}).text = name
        winner = SubElement(row, "td", {"class": "words winner"})
        if each.best is not None:
            markup.sample(winner, each.winner, each.best)
        else:
            winner.text = markup.clean(each.winner)
        markup.say(row, "td", each.text)
        markup.say(row, "td", each.by, "words")


def _tiles(summary: Summary) -> Iterable[tuple[str, Cell, str]]:
    """The figures of a single run that are asked for first."""
    if summary.goodput is not None and summary.goals is not None:
        share = summary.goodput.share
        yield (
            "goodput",
            Cell(share_text(share), share),
            f"of requests have {goals_text(summary.goals)}",
        )
    for name in ("ttft", "tpot", "jct"):
        found: Distribution | None = getattr(summary, name)
        if found is not None:
            detail = f"median; p99 {seconds_text(found.p99)}"
            yield DISTRIBUTIONS[name], Cell(seconds_text(found.p50), found.p50), detail
    rate = summary.output_rate
    detail = f"output tokens; {rate_text(summary.request_rate)} requests"
    yield "throughput", Cell(rate_text(rate), rate), detail
    done = Cell(f"{summary.num_finished:,}", summary.num_finished)
    yield (
        "finished",
        done,
        f"of {summary.num_requests:,} requests, in {seconds_text(summary.span_s)}",
    )


def _sweep(main: Element, figures: Sequence[Compared], swept: Swept) -> None:
    """Each group of figures over the param."""
    markup.say(main, "h2", f"By {swept.param}")
    cards = markup.cards(main)
    for group, each in groupby(figures, key=lambda figure: figure.group):
        only = _SWEPT.get(group)
        shown = [figure for figure in each if only is None or figure.name == only]
        found = None if group == "requests" else sweep_chart(group, shown, swept)
        if found is not None:
            chart, styles = found
            card = markup.card(cards, group)
            markup.legend(card, styles)
            card.append(chart)


# --- figures ------------------------------------------------------------------------------------


def _figures(
    main: Element, runs: Runs, figures: Sequence[Compared], goals: Goals | None, about: About
) -> None:
    """A card per group of figures: a table of the runs, and their distributions where it has one."""
    markup.say(main, "h2", "Figures")
    if any(figure.winner is not None for figure in figures):
        markup.say(main, "p", "The best of each column is bold.")
    everything = {name: [*each, *about.further.get(name, ())] for name, each in runs.items()}
    charts = latencies(goals)
    cards = markup.cards(main)
    others = Element("div", {"class": "others"})  # those without a chart, together
    for group, columns in groupby(figures, key=lambda figure: figure.group):
        title = group
        if group == "goodput" and goals is not None:
            title = f"goodput: requests with {goals_text(goals)}"
        card = markup.card(cards if group in charts else others, title)
        _table_of_runs(card, list(runs), list(columns))
        chart = latency_chart(charts[group], everything) if group in charts else None
        if chart is not None:
            card.append(chart)
    cards.append(others)


def _table_of_runs(card: Element, runs: Sequence[str], columns: Sequence[Compared]) -> None:
    body = markup.table(card, ["", *(column.name for column in columns)])
    for index, name in enumerate(runs):
        cells = [
            Cell(
                column.texts[index],
                column.values[index],
                index == column.winner,
                column.margins[index] if column.margins else "",
                "s" if column.group in DISTRIBUTIONS.values() else "",
            )
            for column in columns
        ]
        markup.row(body, name, cells, index)


def _load(main: Element, runs: Runs, events: Sequence[Mark]) -> None:
    end_s = max((outcome.ended_s for each in runs.values() for outcome in each), default=0.0)
    if not end_s:
        return
    markup.say(main, "h2", "Load")
    cards = markup.cards(main)
    width_s = coarse_width_s(end_s, max(map(len, runs.values())))
    under_way = LoadChart(
        "requests under way", "requests", running, "{:,.1f}".format, fine_width_s(end_s), end_s
    )
    arriving = LoadChart(
        "arrivals per second", "requests per second", arrival_rate, rate_text, width_s, end_s
    )
    for load in (under_way, arriving):
        found = load_chart(load, runs, events)
        if found is not None:
            chart, styles = found
            card = markup.card(cards, load.title)
            markup.legend(card, styles)
            card.append(chart)


def _workers(main: Element, lanes: Mapping[str, Lanes]) -> None:
    end_s = max((each.end_s for each in lanes.values()), default=0.0)
    if not end_s:
        return
    markup.say(main, "h2", "Workers")
    markup.say(main, "p", _LANES)
    main.append(patterns())
    lane_legend(main, lanes.values())
    if len(lanes) > _MAX_OPEN:
        main = markup.folded(main, "of each run")
    cards = markup.cards(main)
    for name, each in lanes.items():
        markup.card(cards, name).append(lane_chart(f"workers of {name}", each, end_s))


def _facts(main: Element, summaries: Mapping[str, Summary], about: About) -> None:
    """What is left to say of each run, in words."""
    markup.say(main, "h2", "Requests")
    if len(summaries) > _MAX_OPEN:
        main = markup.folded(main, "of each run")
    cards = markup.cards(main)
    for name, summary in summaries.items():
        markup.facts(markup.card(cards, name), [*run_facts(summary), *about.facts.get(name, ())])


def origin(main: Element, about: About) -> None:
    """How to repeat the runs."""
    if about.command:
        markup.say(main, "h2", "To repeat this")
        SubElement(SubElement(main, "pre"), "code").text = markup.clean(about.command)
    markup.say(main, "p", f"mserve {__version__}")
