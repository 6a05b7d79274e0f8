"""Elements of a run's page: the document, cards, tables, lists and legends.

Owns which HTML they are. Knows no figures: input are words, and numbers that stand behind them.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring


@dataclass(frozen=True, slots=True)
class Cell:
    """`value` is the number that the words round, in base units, for scripts, and with a unit for
    hovering; `margin` says by how much it may be off."""

    words: str
    value: float | None = None
    is_best: bool = False
    margin: str = ""
    unit: str = ""


def document(title: str, style: str) -> tuple[Element, Element]:
    """The page, and its main element, which has the title as its headline."""
    html = Element("html", {"lang": "en"})
    head = SubElement(html, "head")
    SubElement(head, "meta", {"charset": "utf-8"})
    viewport = "width=device-width, initial-scale=1"
    SubElement(head, "meta", {"name": "viewport", "content": viewport})
    SubElement(head, "title").text = clean(title)
    SubElement(head, "style").text = style
    main = SubElement(SubElement(html, "body"), "main")
    say(main, "h1", title)
    return html, main


def written(html: Element) -> str:
    return "<!doctype html>\n" + tostring(html, encoding="unicode", method="html") + "\n"


def clean(text: str) -> str:
    """Without characters that no page can contain; the serialiser escapes the others."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def say(parent: Element, tag: str, words: str, kind: str = "") -> Element:
    element = SubElement(parent, tag, {"class": kind} if kind else {})
    element.text = clean(words)
    return element


def cards(parent: Element) -> Element:
    return SubElement(parent, "div", {"class": "cards"})


def card(parent: Element, title: str) -> Element:
    section = SubElement(parent, "section")
    say(section, "h3", title)
    return section


# --- tables and lists ---------------------------------------------------------------------------


def table(
    parent: Element, heads: Sequence[str], words: Container[int] = (0,), kind: str = ""
) -> Element:
    """Its body. The columns `words` hold words, the others numbers."""
    box = SubElement(parent, "div", {"class": "scroll"})
    found = SubElement(box, "table", {"class": kind} if kind else {})
    row = SubElement(SubElement(found, "thead"), "tr")
    for index, head in enumerate(heads):
        aligned = {"class": "words"} if index in words else {}
        SubElement(row, "th", {"scope": "col", **aligned}).text = clean(head)
    return SubElement(found, "tbody")


def row(body: Element, name: str, cells: Iterable[Cell], style: int | None = None) -> None:
    """With a sample of the line that stands for it, if there is one."""
    found = SubElement(body, "tr")
    head = SubElement(found, "th", {"scope": "row"})
    if style is None:
        head.text = clean(name)
    else:
        sample(head, name, style)
    for cell in cells:
        _cell(found, cell)


def _cell(parent: Element, cell: Cell) -> None:
    attributes = {"class": "best"} if cell.is_best else {}
    if cell.value is not None:
        attributes |= {"data-value": repr(cell.value)}
        if cell.unit:
            attributes |= {"title": f"{cell.value:.6g} {cell.unit}"}
    found = SubElement(parent, "td", attributes)
    found.text = clean(cell.words)
    if cell.margin:
        say(found, "span", cell.margin, "margin")


def folded(parent: Element, summary: str) -> Element:
    """What a reader may open."""
    found = SubElement(parent, "details")
    say(found, "summary", summary)
    return found


def facts(parent: Element, pairs: Iterable[tuple[str, str]]) -> None:
    """Names and words."""
    box = SubElement(parent, "div", {"class": "scroll"})
    body = SubElement(SubElement(box, "table", {"class": "facts"}), "tbody")
    for name, words in pairs:
        found = SubElement(body, "tr")
        SubElement(found, "th", {"scope": "row"}).text = clean(name)
        SubElement(found, "td", {"class": "words"}).text = clean(words)


def settings(parent: Element, pairs: Mapping[str, str]) -> None:
    found = SubElement(parent, "dl", {"class": "settings"})
    for name, words in pairs.items():
        pair = SubElement(found, "div")
        say(pair, "dt", name)
        say(pair, "dd", words)


def tiles(parent: Element, figures: Iterable[tuple[str, Cell, str]]) -> None:
    """(name, figure, detail), large."""
    found = SubElement(parent, "dl", {"class": "tiles"})
    for name, cell, detail in figures:
        tile = SubElement(found, "div")
        say(tile, "dt", name)
        value = say(tile, "dd", cell.words, "value")
        if cell.value is not None:
            value.set("data-value", repr(cell.value))
        say(tile, "dd", detail, "detail")


# --- legends ------------------------------------------------------------------------------------


def legend(parent: Element, entries: Iterable[tuple[str, int | str]]) -> None:
    """(name, style of its line)."""
    found = SubElement(parent, "p", {"class": "legend"})
    for name, style in entries:
        sample(SubElement(found, "span"), name, style)


def sample(parent: Element, name: str, style: int | str) -> None:
    """Of a line, with its name."""
    hidden = {"aria-hidden": "true"}
    svg = SubElement(parent, "svg", {"class": "chart sample", "viewBox": "0 0 30 10", **hidden})
    ends = {"x1": "0", "y1": "5", "x2": "30", "y2": "5"}
    SubElement(svg, "line", {"class": f"line line-{style}", **ends})
    svg.tail = clean(name)
