"""Diagnostics as text: one module per format, each a function of sources and their diagnostics."""

from collections.abc import Callable, Mapping, Sequence

from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.render.concise import render_concise
from mserve.dsl.render.full import render_full
from mserve.dsl.render.github import render_github
from mserve.dsl.render.json import render_json
from mserve.dsl.render.sarif import render_sarif
from mserve.dsl.source import Source

Renderer = Callable[[Source, Sequence[Diagnostic]], str]

_TEXT_FORMATS: Mapping[str, Renderer] = {
    "full": render_full,
    "concise": render_concise,
    "github": render_github,
}
_DOCUMENTS: Mapping[str, Callable[[Sequence[tuple[Source, Sequence[Diagnostic]]]], str]] = {
    "json": render_json,
    "sarif": render_sarif,
}
FORMATS = (*_TEXT_FORMATS, *_DOCUMENTS)


def render(source: Source, diagnostics: Sequence[Diagnostic], style: str = "full") -> str:
    """The diagnostics of one file in one of `FORMATS`."""
    return render_all([(source, diagnostics)], style)


def render_all(files: Sequence[tuple[Source, Sequence[Diagnostic]]], style: str = "full") -> str:
    """The diagnostics of files in one of `FORMATS`; ends with a newline unless empty. JSON and
    SARIF are one document, whatever the number of files."""
    if style in _DOCUMENTS:
        return _DOCUMENTS[style](files)
    return "".join(_TEXT_FORMATS[style](source, diagnostics) for source, diagnostics in files)
