"""From one text to another by few, small edits, so that cursors and marks of an editor stay put."""

from difflib import SequenceMatcher

from mserve.dsl.diagnostics import Edit
from mserve.dsl.fix import fix_source
from mserve.dsl.format import format_source
from mserve.dsl.server.document import Document
from mserve.dsl.syntax import Span

MAX_LINES_COMPARED = 5_000  # comparing takes time that grows with the square of it


def format_edits(document: Document) -> tuple[Edit, ...]:
    """Nothing where the text has mistakes of form. Lines keep ending as they do."""
    formatted = format_source(document.source).text
    if formatted is None:
        return ()
    before = document.source.text
    if "\r\n" in before:
        formatted = formatted.replace("\n", "\r\n")
    return line_edits(before, formatted)


def fix_edits(document: Document) -> tuple[Edit, ...]:
    """Everything that `mserve check --fix` would mend."""
    return line_edits(document.source.text, fix_source(document.source).checked.source.text)


def line_edits(before: str, after: str) -> tuple[Edit, ...]:
    """Edits that replace whole lines, trimmed to what differs in each."""
    old, new = _lines(before), _lines(after)
    if max(len(old), len(new)) > MAX_LINES_COMPARED:
        return (_trimmed(before, Edit(Span(0, len(before)), after)),)
    starts = [0]
    for line in old:
        starts.append(starts[-1] + len(line))
    edits = []
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            span = Span(starts[i1], starts[i2])
            edits.append(_trimmed(before, Edit(span, "".join(new[j1:j2]))))
    return tuple(edits)


def _lines(text: str) -> list[str]:
    """Cut behind each line feed, which no other character is taken for."""
    *whole, last = text.split("\n")
    return [f"{line}\n" for line in whole] + ([last] if last else [])


def _trimmed(text: str, edit: Edit) -> Edit:
    """Without what the old and the new characters begin and end with alike."""
    old, new = text[edit.span.start : edit.span.end], edit.text
    head = _num_common(old, new)
    tail = _num_common(old[head:][::-1], new[head:][::-1])
    span = Span(edit.span.start + head, edit.span.end - tail)
    return Edit(span, new[head : len(new) - tail])


def _num_common(left: str, right: str) -> int:
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count
