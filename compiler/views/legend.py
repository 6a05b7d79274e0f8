"""What stands below drawn plans: the patterns that occur, and what the numbers rest on."""

from collections.abc import Iterator, Sequence

from mserve.compiler.views.layout import LINE_HEIGHT, MARGIN, WIDTH, text_width, wrap_text
from mserve.compiler.views.quantities import size
from mserve.compiler.views.scene import Act, Scene
from mserve.compiler.views.shapes import FILLS, box, text
from mserve.compiler.views.subject import Subject
from mserve.compiler.views.xml import element

_SWATCH_WIDTH = 26


def draw_legend(subject: Subject, scenes: Sequence[Scene], y: float) -> tuple[list[str], float]:
    """Only what occurs; then what the numbers rest on."""
    x, y, parts = float(MARGIN), y + 22, []
    for class_, words in _legend_items(scenes):
        width = _SWATCH_WIDTH + 8 + text_width(words) + 18
        if x + width > WIDTH - MARGIN:
            x, y = float(MARGIN), y + LINE_HEIGHT + 6
        parts += [_swatch(class_, x, y), text(words, x + _SWATCH_WIDTH + 8, y, "label")]
        x += width
    for line in wrap_text(_footnote(subject) if scenes else "", WIDTH - 2.0 * MARGIN, 3):
        y += LINE_HEIGHT + 4
        parts.append(text(line, MARGIN, y, "dim"))
    return parts, y


def _swatch(class_: str, x: float, y: float) -> str:
    if class_ != "arrow":
        return box(class_, x, x + _SWATCH_WIDTH, y - 11)
    tip = x + _SWATCH_WIDTH
    shaft = element("path", class_="shaft", d=f"M{x:.1f} {y - 4:.1f}H{tip - 7:.1f}")
    return shaft + element("path", class_="head", d=f"M{tip:.1f} {y - 4:.1f}l-7 -4.5v9z")


def _legend_items(scenes: Sequence[Scene]) -> Iterator[tuple[str, str]]:
    acts = [act for scene in scenes for act in scene.acts]
    parts = {class_ for act in acts for class_ in _visible_fills(act)}
    for class_, words in _LEGEND.items():
        if class_ in parts:
            yield class_, words
    if any(scene.moves for scene in scenes):
        yield "arrow", "KV on its way"
    if any(busy_s > 0 for scene in scenes for busy_s in scene.busy_s):
        yield "busy", "earlier prompts"
    if any(act.is_critical for act in acts):
        yield "outline critical", "critical path: what the first token waits for"


def _visible_fills(act: Act) -> Iterator[str]:
    first, then = FILLS[act.step.op]
    if act.span.middle > act.span.begin:
        yield first
    if act.span.end > act.span.middle or first == then:
        yield then


_LEGEND = {
    "compute": "computes the prompt's KV",
    "send": "only sends KV",
    "receive": "receives KV",
    "generate": "generates the answer",
    "keep": "keeps KV as cache",
}


def _footnote(subject: Subject) -> str:
    if subject.decided is None:
        return (
            f"Left to right is order, not time. {_RANGES}; n is the prompt's length, and ratios are "
            "of it. Workers written differently are different workers, and nothing is cached but what "
            "is reused."
        )
    profile = subject.decided.situation.cluster.profile
    return (
        f"Predicted with the cost profile {profile.name}, where the KV of a token is "
        f"{size(profile.kv_token_bytes)}. {_RANGES}."
    )


_RANGES = "[a, b) are the tokens from position a up to, but without, b"
