"""Applying what diagnostics offer as a fix, until nothing is left that can be fixed.

A diagnostic's edits are applied all or not at all, and never where they touch those of another one
of the same round. Owns no rule: what is safe to apply is the rules' business.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from mserve.dsl.check import Checked, check_source
from mserve.dsl.diagnostics import Diagnostic, Edit
from mserve.dsl.source import Source

MAX_ROUNDS = 20  # a mended line may show one more mistake; each round mends all that it can


@dataclass(frozen=True, slots=True)
class Applied:
    """A diagnostic that was fixed, and the text (of its round) that it speaks about."""

    source: Source
    diagnostic: Diagnostic


@dataclass(frozen=True)
class Fixed:
    """`checked` is the text afterwards with what is left to the author."""

    checked: Checked
    applied: tuple[Applied, ...] = ()


def fix_source(source: Source) -> Fixed:
    """Bytes that are not UTF-8 would be lost, so such a text is left alone."""
    checked = check_source(source)
    applied: list[Applied] = []
    if source.undecodable is not None:
        return Fixed(checked)
    seen = {checked.source.text}
    for _ in range(MAX_ROUNDS):
        chosen = _compatible(checked.diagnostics)
        text = apply_edits(checked.source.text, [edit for each in chosen for edit in each.fix])
        if text in seen:  # nothing to do, or two fixes that undo each other
            break
        seen.add(text)
        applied += [Applied(checked.source, each) for each in chosen]
        checked = check_source(Source(text, source.path))
    return Fixed(checked, tuple(applied))


def apply_edits(text: str, edits: Iterable[Edit]) -> str:
    """The text with all edits made; they must not overlap."""
    for edit in sorted(edits, key=lambda each: each.span.start, reverse=True):
        text = text[: edit.span.start] + edit.text + text[edit.span.end :]
    return text


def _compatible(diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    """In text order those whose edits touch no edit chosen before."""
    chosen: list[Diagnostic] = []
    taken: list[Edit] = []
    for diagnostic in diagnostics:
        if diagnostic.fix and not any(_touch(a, b) for a in diagnostic.fix for b in taken):
            chosen.append(diagnostic)
            taken += diagnostic.fix
    return chosen


def _touch(left: Edit, right: Edit) -> bool:
    return left.span.start <= right.span.end and right.span.start <= left.span.end
