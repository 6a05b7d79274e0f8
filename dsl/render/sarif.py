"""SARIF 2.1.0, the interchange format of static analysis: one run, with the pages of its rules."""

import json
from collections.abc import Sequence
from typing import Any

from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.rules import page_of
from mserve.dsl.source import Source
from mserve.dsl.syntax import Span

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def render_sarif(files: Sequence[tuple[Source, Sequence[Diagnostic]]]) -> str:
    rules = sorted({diagnostic.rule for _, diagnostics in files for diagnostic in diagnostics})
    driver = {"name": "mserve", "rules": [_rule(rule) for rule in rules]}
    results = [_result(source, each) for source, diagnostics in files for each in diagnostics]
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _rule(rule: str) -> dict[str, Any]:
    page = page_of(rule)
    return {
        "id": rule,
        "shortDescription": {"text": page.partition("\n")[0]},
        "fullDescription": {"text": page},
    }


def _result(source: Source, diagnostic: Diagnostic) -> dict[str, Any]:
    text = f"{diagnostic.message}. {diagnostic.help}" if diagnostic.help else diagnostic.message
    return {
        "ruleId": diagnostic.rule,
        "level": diagnostic.severity.value,
        "message": {"text": text},
        "locations": [_location(source, diagnostic.span)],
        "relatedLocations": [
            {**_location(source, label.span), "message": {"text": label.text}}
            for label in diagnostic.labels[1:]
        ],
    }


def _location(source: Source, span: Span) -> dict[str, Any]:
    start, end = source.position(span.start), source.position(span.end)
    region = {
        "startLine": start.line,
        "startColumn": start.column,
        "endLine": end.line,
        "endColumn": end.column,
    }
    return {"physicalLocation": {"artifactLocation": {"uri": source.path}, "region": region}}
