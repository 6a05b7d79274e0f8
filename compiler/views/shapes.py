"""The few shapes that drawings of plans are made of, as SVG elements."""

from mserve.compiler.views.layout import BAR_HEIGHT
from mserve.compiler.views.xml import clean, element

FILLS = {
    "prep_recv": ("receive", "receive"),
    "remote_send": ("compute", "send"),
    "start_generate": ("compute", "generate"),
    "commit": ("keep", "keep"),
    "release": ("keep", "keep"),
}
"""Of a step's bar, up to its middle and from there on: classes of palette.py."""


def text(words: str, x: float, y: float, class_: str | None = None, **more: object) -> str:
    return element("text", clean(words), class_=class_, x=x, y=y, **more)


def box(class_: str, left: float, right: float, y: float) -> str:
    return element("rect", class_=class_, x=left, y=y, width=right - left, height=float(BAR_HEIGHT))
