"""A plan as a self-contained SVG: a lane per worker, a bar per step, an arrow per moved KV range.

Follows the reader's colour scheme; patterns, weights and words carry all that colours do, so that it
reads the same in print. Hovering over anything shows the step and the line it was written in. Owns
shapes and colours; where they stand is layout.py's.
"""

from collections.abc import Sequence

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
    OUTCOMES,
    Act,
    Move,
    Scene,
    given_words,
    scenes_of,
    situation_words,
)
from mserve.compiler.views.shapes import FILLS, box, text
from mserve.compiler.views.subject import Subject
from mserve.compiler.views.xml import clean, element

_TITLE_SIZE, _HEADING_SIZE = 17, 14
_AXIS_HEIGHT = 46


def draw_svg(subject: Subject, *, has_headline: bool = True) -> str:
    """The whole drawing: headline, a panel for every scene, legend."""
    parts, y = _headline(subject, MARGIN + 16.0) if has_headline else ([], 0.0)
    refusal, y = _refusal(subject, y)
    parts += refusal
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


def _headline(subject: Subject, y: float) -> tuple[list[str], float]:
    strategy, parts = subject.strategy, []
    room = WIDTH - 2.0 * MARGIN
    name = cut_text(strategy.name, room, _TITLE_SIZE * 1.08)
    parts.append(text(name, MARGIN, y + 4, "title"))
    lines = wrap_text(strategy.description, room, 3)
    for line in lines:
        y += LINE_HEIGHT + 4
        parts.append(text(line, MARGIN, y + 4, "dim"))
    return parts, y + 12


def _refusal(subject: Subject, y: float) -> tuple[list[str], float]:
    """Where no route is possible: why each was passed over."""
    decided, parts = subject.decided, []
    if decided is None or decided.chosen is not None:
        return [], y
    words = [(situation_words(subject), "heading"), (given_words(decided), "dim")]
    words += [(f"route {name}: {OUTCOMES[held]}", "dim") for name, held in decided.guards]
    y += 8
    for line, class_ in words:
        y += LINE_HEIGHT + 4
        parts.append(text(cut_text(line, WIDTH - 2.0 * MARGIN, _HEADING_SIZE), MARGIN, y, class_))
    return parts, y


# --- one plan ----------------------------------------------------------------------------------


def _panel(scene: Scene, y: float) -> tuple[list[str], float]:
    room = WIDTH - 2.0 * MARGIN
    y += 28
    parts = [text(cut_text(scene.title, room, _HEADING_SIZE * 1.08), MARGIN, y, "heading")]
    for line in wrap_text(scene.subtitle, room, 3):
        y += LINE_HEIGHT + 2
        parts.append(text(line, MARGIN, y, "dim"))
    layout = lay_out(scene, y + _AXIS_HEIGHT)
    parts += [_lane(lane, number, layout) for number, lane in enumerate(layout.lanes)]
    parts += _time_axis(scene, layout) if scene.is_timed else _columns(scene, layout)
    parts += [_arrow(scene, arrow) for arrow in layout.arrows]
    parts += [_bar(scene, row) for row in layout.rows]
    parts += [_label(scene, row) for row in layout.rows]
    parts += [_busy(lane, layout.axis) for lane in layout.lanes if lane.busy_until is not None]
    return parts, layout.bottom + 6


def _lane(lane: Lane, number: int, layout: Layout) -> str:
    height, room = lane.bottom - lane.top, WIDTH - 2.0 * MARGIN
    middle = (lane.top + lane.bottom) / 2 - (len(lane.lines) - 1) * LINE_HEIGHT / 2 + 4
    names = [
        text(line, MARGIN + 8, middle + i * LINE_HEIGHT, "worker")
        for i, line in enumerate(lane.lines)
    ]
    band = element(
        "rect", class_=f"lane lane-{number % 2}", x=MARGIN, y=lane.top, width=room, height=height
    )
    return element("g", element("title", clean(f"worker {lane.name}")), band, *names)


def _time_axis(scene: Scene, layout: Layout) -> list[str]:
    axis, y = layout.axis, layout.top - 8
    parts = []
    for x, words in axis.ticks():
        parts.append(_vertical(x, layout.top - 4, layout.bottom, "grid"))
        width = text_width(words, FONT_SIZE)
        x = min(max(x - width / 2, axis.left), axis.right - width)
        parts.append(text(words, x, y, "tick"))
    assert scene.first_token is not None, "an axis of time has a first token"
    return parts + _first_token(scene.first_token, layout)


def _first_token(time_s: float, layout: Layout) -> list[str]:
    """The line that divides the wait from the answer; behind a bend the scale is another."""
    axis, y = layout.axis, layout.top - 24
    x, words = axis.x(time_s), f"first token {duration(time_s)}"
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
        left, right = layout.axis.x(number), layout.axis.x(number + 1)
        words = str(number + 1)
        x = (left + right - text_width(words)) / 2
        parts.append(text(words, x, layout.top - 8, "tick"))
        parts.append(_vertical(left, layout.top - 4, layout.bottom, "grid"))
    return parts


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
    class_ = "label strong" if row.act.is_critical else "label"
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


def _busy(lane: Lane, axis: Axis) -> str:
    """What the worker still has to compute for others."""
    assert lane.busy_until is not None, "only a busy worker has a bar for it"
    words = f"busy with earlier prompts for {duration(lane.busy_s)}"
    y = lane.top + 7
    return element(
        "g",
        element("title", clean(f"{lane.name} is {words}")),
        box("busy", axis.left, lane.busy_until, y + 18),
        text(cut_text(words, axis.right - axis.left), axis.left, y + 13, "label dim"),
    )
