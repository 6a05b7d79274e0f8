"""One line per diagnostic: `path:line:column: error[rule] message`."""

from collections.abc import Sequence

from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.render.printable import printable
from mserve.dsl.source import Source


def render_concise(source: Source, diagnostics: Sequence[Diagnostic]) -> str:
    return "".join(f"{_line(source, diagnostic)}\n" for diagnostic in diagnostics)


def _line(source: Source, diagnostic: Diagnostic) -> str:
    position = source.position(diagnostic.span.start)
    place = f"{source.path}:{position.line}:{position.column}"
    return printable(f"{place}: {diagnostic.severity}[{diagnostic.rule}] {diagnostic.message}")
