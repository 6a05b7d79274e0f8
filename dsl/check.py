"""The front end's one entry: a text in, a checked syntax tree or all its problems out.

Runs the checks in order and decides which of them still make sense after mistakes of form. Knows
none of the rules itself.
"""

from dataclasses import dataclass

from mserve.dsl import syntax
from mserve.dsl.diagnostics import Diagnostic, Severity
from mserve.dsl.parser import parse
from mserve.dsl.rules import form
from mserve.dsl.source import Source


@dataclass(frozen=True)
class Checked:
    """`strategy` is set if there is no error (warnings aside); `diagnostics` are in text order."""

    source: Source
    strategy: syntax.Strategy | None
    diagnostics: tuple[Diagnostic, ...]


def check_text(text: str, path: str = "<text>") -> Checked:
    return check_source(Source.from_text(text, path))


def check_bytes(data: bytes, path: str = "<text>") -> Checked:
    """Like `check_text`; bytes that are not UTF-8 are a problem of rule `syntax`."""
    return check_source(Source.from_bytes(data, path))


def check_source(source: Source) -> Checked:
    """Never raises for any text."""
    parsed = parse(source)
    problems = list(parsed.diagnostics)
    if source.undecodable is not None:
        problems.append(form.syntax(source.undecodable, "this is not UTF-8 text"))
    ordered = tuple(sorted(problems, key=lambda each: (each.span.start, each.span.end, each.rule)))
    failed = any(problem.severity is Severity.ERROR for problem in ordered)
    return Checked(source, None if failed else parsed.strategy, ordered)
