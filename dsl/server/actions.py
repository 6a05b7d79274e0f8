"""Quick fixes: the edits that diagnostics offer, with words for a menu."""

from collections.abc import Iterator
from dataclasses import dataclass

from mserve.dsl.diagnostics import Diagnostic, Edit
from mserve.dsl.server.document import Document
from mserve.dsl.syntax import Span

_LONGEST_SHOWN = 40


@dataclass(frozen=True, slots=True)
class QuickFix:
    title: str
    diagnostic: Diagnostic
    edits: tuple[Edit, ...]


def quick_fixes(document: Document, span: Span) -> Iterator[QuickFix]:
    """Those of problems that touch `span`."""
    for problem in problems_at(document, span):
        if problem.fix:
            yield QuickFix(_title(document, problem), problem, problem.fix)


def problems_at(document: Document, span: Span) -> Iterator[Diagnostic]:
    for problem in document.checked.diagnostics:
        if problem.span.start <= span.end and span.start <= problem.span.end:
            yield problem


def _title(document: Document, problem: Diagnostic) -> str:
    """`replace `laod` by `load``, or what the diagnostic itself says about larger changes."""
    edit = problem.fix[0]
    old, new = (" ".join(text.split()) for text in (document.source.slice(edit.span), edit.text))
    if len(problem.fix) > 1 or max(len(old), len(new)) > _LONGEST_SHOWN or not (old or new):
        return problem.help.replace("`", "") or f"fix: {problem.message}".replace("`", "")
    if not new:
        return f"Leave out {old}"
    return f"Replace {old} by {new}" if old else f"Insert {new}"
