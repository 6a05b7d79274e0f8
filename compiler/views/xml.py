"""Elements of XML and HTML as text: names and attributes as given, content escaped."""

from collections.abc import Iterable
from html import escape


def element(name: str, *children: str, **attributes: object) -> str:
    """`children` are elements or escaped text. `class_` is `class`, `stroke_width` `stroke-width`;
    an attribute that is None is left out."""
    start = name + "".join(_attributes(attributes.items()))
    return f"<{start}>{''.join(children)}</{name}>" if children else f"<{start}/>"


def _attributes(attributes: Iterable[tuple[str, object]]) -> Iterable[str]:
    for name, value in attributes:
        if value is not None:
            text = number(value) if isinstance(value, float) else clean(str(value))
            yield f' {name.rstrip("_").replace("_", "-")}="{text}"'


def number(value: float) -> str:
    """At most one decimal: stable, and finer than anyone sees."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def clean(text: str) -> str:
    """Escaped, without characters that XML cannot contain at all."""
    return escape("".join(c if _is_allowed(ord(c)) else "\ufffd" for c in text))


def _is_allowed(code: int) -> bool:
    """XML 1.0, section 2.2."""
    return (
        code in (0x9, 0xA, 0xD)
        or 0x20 <= code <= 0xD7FF
        or 0xE000 <= code <= 0xFFFD
        or code >= 0x10000
    )
