"""A plan as a self-contained SVG: a lane per worker, a bar per step, an arrow per moved KV range.

Follows the reader's colour scheme; patterns, weights and words carry all that colours do, so that it
reads the same in print. Hovering over anything shows the step and the line it was written in. Owns
shapes and colours; where they stand is layout.py's.
"""

from collections.abc import Sequence

from mserve.compiler.views.head import draw_head
from mserve.compiler.views.layout import (
    FONT_SIZE,
    LABEL_SIZE,
    LINE_HEIGHT,
    MARGIN,
    WIDTH,
    Arrow,
    Axis,
    Lane,
    Layout,
    Row,
    cut_text,
    lay_out,
    text_width,
    wrap_text,
)
from mserve.compiler.views.legend import draw_legend
from mserve.compiler.views.palette import PATTERNS, STYLE
from mserve.compiler.views.quantities import duration
from mserve.compiler.views.scene import (
    Act,
    Move,
    Scene,
    scenes_of,
    situation_words,
)
from mserve.compiler.views.shapes import FILLS, box, text
from mserve.compiler.views.subject import Subject
from mserve.compiler.views.xml import clean, element

_HEADING_SIZE = 14
_AXIS_HEIGHT, _COLUMNS_HEIGHT = 46, 28


def draw_svg(subject: Subject, *, has_headline: bool = True) -> str:
    """The whole drawing: headline, a panel for every scene, legend."""
    parts, y = draw_head(subject, MARGIN + 16.0) if has_headline else ([], 0.0)
    if subject.decided is not None and subject.decided.chosen is None:
        y += 28
        parts.append(text(situation_words(subject), MARGIN, y, "heading"))
    scenes = scenes_of(subject)
    for scene in scenes:
        panel, y = _panel(scene, y)
        parts += panel
    legend, y = draw_legend(subject, scenes, y)
    parts += legend
    return _document(subject, parts, y + MARGIN)


def _document(subject: Subject, parts: Sequence[str], height: float) -> str:
    name, description = subject.strategy.name, subject.strategy.description
    head = [
        element("title", clean(f"Plan of the strategy {name}"), id="plan-title"),
        element("desc", clean(description or name), id="plan-text"),
        element("style", STYLE),
        element("defs", *PATTERNS),
        element("rect", class_="paper", width=WIDTH, height=height),
    ]
    body = "\n".join([*head, *parts])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="plan" role="graphics-document" '
        f'aria-labelledby="plan-title plan-text" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'width="{WIDTH}" height="{height:.0f}">\n{body}\n</svg>\n'
    )


# --- one plan ----------------------------------------------------------------------------------


def _panel(scene: Scene, y: float) -> tuple[list[str], float]:
    room = WIDTH - 2.0 * MARGIN
    y += 28
    parts = [text(cut_text(scene.title, room, _HEADING_SIZE * 1.08), MARGIN, y, "heading")]
    for line in wrap_text("" if scene.is_timed else scene.subtitle, room, 3):
        y += LINE_HEIGHT + 2
        parts.append(text(line, MARGIN, y, "dim"))
    layout = lay_out(scene, y + (_AXIS_HEIGHT if scene.is_timed else _COLUMNS_HEIGHT))
    parts += [_lane(lane, number) for number, lane in enumerate(layout.lanes)]
    parts += _time_axis(scene, layout) if scene.is_timed else _columns(scene, layout)
    parts += [_arrow(scene, arrow) for arrow in layout.arrows]
    parts += [_bar(scene, row) for row in layout.rows]
    parts += [_label(scene, row) for row in layout.rows]
    parts += [
        _busy(lane, number, layout.axis)
        for number, lane in enumerate(layout.lanes)
        if lane.busy_until is not None
    ]
    return parts, layout.bottom + 6


def _lane(lane: Lane, number: int) -> str:
    height, room = lane.bottom - lane.top, WIDTH - 2.0 * MARGIN
    middle = (lane.top + lane.bottom) / 2 - (len(lane.lines) - 1) * LINE_HEIGHT / 2 + 4
    names = [
        text(line, MARGIN + 8, middle + i * LINE_HEIGHT, f"worker{_on(number)}")
        for i, line in enumerate(lane.lines)
    ]
    band = element(
        "rect", class_=f"lane lane-{number % 2}", x=MARGIN, y=lane.top, width=room, height=height
    )
    return element("g", element("title", clean(f"worker {lane.name}")), band, *names)


def _on(lane: int) -> str:
    """The class for words that stand in a lane: they keep lines away in its colour."""
    return "" if lane % 2 else " on-band"


def _time_axis(scene: Scene, layout: Layout) -> list[str]:
    axis, y = layout.axis, layout.top - 8
    parts = []
    for x, words in axis.ticks():
        parts.append(_vertical(x, layout.top - 4, layout.bottom, "grid"))
        width = text_width(words, FONT_SIZE)
        x = min(max(x - width / 2, axis.left), axis.right - width)
        parts.append(text(words, x, y, "tick"))
    words = f"first token after {duration(scene.first_token)}"
    return parts + _first_token(words, axis.x(scene.first_token), layout, layout.top - 24)


def _first_token(words: str, x: float, layout: Layout, y: float) -> list[str]:
    """The line that divides the wait from the answer; behind a bend the scale is another."""
    axis = layout.axis
    left = min(max(x - text_width(words, LABEL_SIZE) / 2, axis.left), axis.right)
    left = min(left, axis.right - text_width(words, LABEL_SIZE))
    parts = [_vertical(x, y + 4, layout.bottom, "first"), text(words, left, y, "strong")]
    if axis.is_bent:
        end = "the answer, on another scale"
        start = axis.right - text_width(end, FONT_SIZE)
        if start > left + text_width(words, LABEL_SIZE) + 8:
            parts.append(text(end, start, y, "tick"))
        parts.append(_break(x, layout.top - 12))
    return parts


def _break(x: float, y: float) -> str:
    """Two slashes: the usual sign of an interrupted axis."""
    path = f"M{x - 5:.1f} {y + 6:.1f}l4 -10M{x + 1:.1f} {y + 6:.1f}l4 -10"
    return element("path", class_="break", d=path)


def _columns(scene: Scene, layout: Layout) -> list[str]:
    parts = []
    for number in range(int(scene.end)):
        parts.append(_vertical(layout.axis.x(number), layout.top, layout.bottom, "grid"))
    x = layout.axis.x(scene.first_token)
    return parts + _first_token("first token", x, layout, layout.top - 8)


def _vertical(x: float, top: float, bottom: float, class_: str) -> str:
    return element("line", class_=class_, x1=x, y1=top, x2=x, y2=bottom)


# --- steps and moves ---------------------------------------------------------------------------


def _bar(scene: Scene, row: Row) -> str:
    first, then = FILLS[row.act.step.op]
    parts = [element("title", clean(_story(scene, row.act)))]
    for class_, left, right in ((first, row.left, row.middle), (then, row.middle, row.right)):
        if right > left:
            parts.append(box(class_, left, right, row.bar_y))
    parts.append(box("outline", row.left, row.right, row.bar_y))
    if row.act.is_critical:  # an answer up to its first token
        end = row.middle if row.act.step.op == "start_generate" else row.right
        parts.append(box("outline critical", row.left, max(end, row.left + 4), row.bar_y))
    step = row.act.step
    return element("g", *parts, class_="step", data_step=step.id, data_worker=row.act.lane)


def _label(scene: Scene, row: Row) -> str:
    story = element("title", clean(_story(scene, row.act)))
    words = [clean(row.label)]
    if row.times:
        words.append(element("tspan", clean(row.times), class_="dim", dx=8))
    class_ = ("label strong" if row.act.is_critical else "label") + _on(row.act.lane)
    return element("text", story, *words, class_=class_, x=row.label_x, y=row.label_y)


def _story(scene: Scene, act: Act) -> str:
    """What hovering shows: the call, what it does, when, and where it comes from."""
    lines = [f"{act.step.id} {act.step.op} on {scene.lanes[act.lane]}", act.phrase]
    if scene.is_timed:
        lines.append(f"{duration(act.span.begin)} to {duration(act.span.end)}")
    if act.is_critical:
        lines.append("on the critical path to the first token")
    return "\n".join([*lines, *map(str, act.lines)])


def _arrow(scene: Scene, arrow: Arrow) -> str:
    move, down = arrow.move, arrow.end_y > arrow.begin_y
    tip = -7 if down else 7
    line = f"M{arrow.begin_x:.1f} {arrow.begin_y:.1f}L{arrow.end_x:.1f} {arrow.end_y + tip:.1f}"
    head = f"M{arrow.end_x:.1f} {arrow.end_y:.1f}l-4.5 {tip}h9z"
    class_ = "arrow critical" if move.is_critical else "arrow"
    return element(
        "g",
        element("title", clean(_move_story(scene, move))),
        element("path", class_="shaft", d=line),
        element("path", class_="head", d=head),
        class_=class_,
        data_ticket=move.ticket,
        data_from=scene.act(move.source).lane,
        data_to=scene.act(move.target).lane,
    )


def _move_story(scene: Scene, move: Move) -> str:
    source, target = scene.act(move.source), scene.act(move.target)
    lines = [f"{move.ticket}: KV of {move.amount}"]
    lines.append(f"from {scene.lanes[source.lane]} to {scene.lanes[target.lane]}")
    if scene.is_timed:
        lines.append(f"all there after {duration(move.end)}")
    return "\n".join([*lines, *map(str, target.lines)])


def _busy(lane: Lane, number: int, axis: Axis) -> str:
    """What the worker still has to compute for others."""
    assert lane.busy_until is not None, "only a busy worker has a bar for it"
    words = f"busy with earlier prompts for {duration(lane.busy_s)}"
    y = lane.top + 7
    return element(
        "g",
        element("title", clean(f"{lane.name} is {words}")),
        box("busy", axis.left, lane.busy_until, y + 18),
        text(cut_text(words, axis.right - axis.left), axis.left, y + 13, f"label dim{_on(number)}"),
    )
