"""Several strategies over a sweep as one self-contained page: a chart and a table for each figure.

Beside page.py, which has what became of single runs. Input are figures by the swept values.
"""

from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element

from mserve.runtime.traffic import markup
from mserve.runtime.traffic.curves import Swept, SweptLine, swept_lines
from mserve.runtime.traffic.markup import Cell
from mserve.runtime.traffic.page import About, origin
from mserve.runtime.traffic.pagestyle import EVERY, page_style
from mserve.runtime.traffic.report import DISTRIBUTIONS, Compared

Figures = Mapping[tuple[str, str], Sequence[Compared | None]]  # by group and name, then by value

_GOODPUT = ("goodput", "share")


def write_sweep_page(
    title: str,
    names: Sequence[str],
    swept: Swept,
    figures: Figures,
    answer: Sequence[str],
    about: About,
    level: float,
) -> str:
    """HTML. `names` are of the strategies, in the order of every figure's values; `answer` are sentences
    that stand above everything; `level` of goodput is a line in its chart."""
    html, main = markup.document(title, page_style(len(names), is_ordered=False))
    if about.settings:
        markup.settings(main, about.settings)
    for sentence in answer:
        markup.say(main, "p", sentence, "answer")
    for note in about.notes:
        markup.say(main, "p", note)
    markup.say(main, "h2", f"By {swept.param}")
    markup.legend(main, ((name, index) for index, name in enumerate(names)))
    cards = markup.cards(main)
    for (group, figure), by_value in figures.items():
        card = markup.card(cards, f"{group}, {figure}")
        is_goodput = (group, figure) == _GOODPUT
        _chart(card, (group, figure), by_value, names, swept, level if is_goodput else None)
        _table(card, by_value, names, swept)
    origin(main, about)
    return markup.written(html)


def _chart(
    card: Element,
    key: tuple[str, str],
    by_value: Sequence[Compared | None],
    names: Sequence[str],
    swept: Swept,
    level: float | None,
) -> None:
    lines = [
        SweptLine(
            name,
            index,
            [None if each is None else each.values[index] for each in by_value],
            ["-" if each is None else each.texts[index] for each in by_value],
        )
        for index, name in enumerate(names)
    ]
    group = "goodput" if key[0] == "requests" else key[0]  # both are shares of requests
    chart = swept_lines(f"{', '.join(key)} by {swept.param}", group, lines, swept, level)
    if chart is None:
        return
    if level is not None:
        markup.legend(card, [(f"{level:.0%}", EVERY)])
    card.append(chart)


def _table(
    card: Element, by_value: Sequence[Compared | None], names: Sequence[str], swept: Swept
) -> None:
    """A row for each strategy, a column for each value; the best of each column is bold."""
    body = markup.table(card, [swept.param, *swept.values])
    for index, name in enumerate(names):
        cells = [Cell("-") if each is None else _cell(each, index) for each in by_value]
        markup.row(body, name, cells, index)


def _cell(figure: Compared, index: int) -> Cell:
    return Cell(
        figure.texts[index],
        figure.values[index],
        index == figure.winner,
        figure.margins[index] if figure.margins else "",
        "s" if figure.group in DISTRIBUTIONS.values() else "",
    )
