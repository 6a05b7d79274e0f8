"""Workflow commands of GitHub Actions: each diagnostic becomes an annotation of its line."""

from collections.abc import Sequence

from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.render.printable import printable
from mserve.dsl.source import Source


def render_github(source: Source, diagnostics: Sequence[Diagnostic]) -> str:
    return "".join(f"{_command(source, diagnostic)}\n" for diagnostic in diagnostics)


def _command(source: Source, diagnostic: Diagnostic) -> str:
    start, end = source.position(diagnostic.span.start), source.position(diagnostic.span.end)
    properties = {
        "file": source.path,
        "line": str(start.line),
        "col": str(start.column),
        "endLine": str(end.line),
        "endColumn": str(end.column),
        "title": f"mserve ({diagnostic.rule})",
    }
    listed = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    text = f"{diagnostic.message}. {diagnostic.help}" if diagnostic.help else diagnostic.message
    return f"::{diagnostic.severity} {listed}::{_data(text)}"


def _data(text: str) -> str:
    return printable(text).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
