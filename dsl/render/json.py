"""A JSON array of objects, one per diagnostic; lines and columns count from 1, ends are exclusive."""

import json
from collections.abc import Sequence
from typing import Any

from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.source import Source
from mserve.dsl.syntax import Span


def render_json(files: Sequence[tuple[Source, Sequence[Diagnostic]]]) -> str:
    objects = [_object(source, each) for source, diagnostics in files for each in diagnostics]
    return json.dumps(objects, indent=2) + "\n"


def _object(source: Source, diagnostic: Diagnostic) -> dict[str, Any]:
    return {
        "path": source.path,
        "rule": diagnostic.rule,
        "severity": diagnostic.severity.value,
        "message": diagnostic.message,
        "help": diagnostic.help,
        **_place(source, diagnostic.span),
        "labels": [
            {**_place(source, label.span), "text": label.text} for label in diagnostic.labels
        ],
        "fix": [{**_place(source, edit.span), "text": edit.text} for edit in diagnostic.fix],
    }


def _place(source: Source, span: Span) -> dict[str, int]:
    start, end = source.position(span.start), source.position(span.end)
    return {
        "line": start.line,
        "column": start.column,
        "end_line": end.line,
        "end_column": end.column,
    }
