"""The one canonical form of a strategy: `mserve fmt`.

- Items (declarations, steps, settings, lines of tests) stand on lines of their own, blocks indented
  by two blanks; a block whose first item the author put behind its `{` stays on one line if it fits
  and holds no comment, its items two blanks apart.
- Lines are at most 100 columns wide (wrapping.py says where wider ones are broken).
- The `=` of `let`s, of params and of settings that follow each other stand in one column, and so do
  comments behind lines of one indentation that follow each other. An empty line, a comment on a line
  of its own and an item on several lines end such a run; of comments, a line without one does, too.
- Comments stay where they are, three blanks behind what they follow; of several empty lines one is
  kept.

Works on tokens, which it neither adds, drops nor reorders, so the meaning cannot change.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from mserve.dsl.comments import Comment, comments_of
from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.items import CLOSING, COMMENT, SETTING, Item, items_of, place
from mserve.dsl.parser import parse
from mserve.dsl.source import Source
from mserve.dsl.strange import undecodable
from mserve.dsl.syntax import Strategy
from mserve.dsl.tokens import tokenize
from mserve.dsl.unparse import unparse
from mserve.dsl.wrapping import WIDTH, Line, lines_of_item, one_line

INDENT = 2
BEFORE_COMMENT = 3
_ALIGNED = frozenset(["LET", "PARAM", SETTING])


@dataclass(frozen=True)
class Formatted:
    """`text` is None where the text has mistakes of form: what cannot be read is left alone."""

    text: str | None
    diagnostics: tuple[Diagnostic, ...] = ()


def format_source(source: Source) -> Formatted:
    """The canonical form of a text; never raises for any text."""
    parsed = parse(source)
    problems = (*undecodable(source, parsed.diagnostics), *parsed.diagnostics)
    if problems:
        return Formatted(None, problems)
    tokens = tokenize(source).tokens
    items = items_of(source, tokens, list(comments_of(source, tokens)))
    return Formatted(_text(list(_rows(source, items))))


def format_tree(strategy: Strategy) -> str:
    """The canonical text of a tree: `parse(format_tree(tree)) == tree`."""
    text = format_source(Source.from_text(unparse(strategy))).text
    assert text is not None, "what is unparsed can be parsed"
    return text


@dataclass(frozen=True)
class _Row:
    """The lines of one item. `aligned` is its kind if its `=` may be lined up with neighbours'."""

    lines: list[Line]
    blank_before: bool
    aligned: str = ""


def _rows(source: Source, items: Sequence[Item]) -> Iterator[_Row]:
    index = 0
    opened = True  # no empty line on top of the file or of a block
    while index < len(items):
        item = items[index]
        closing = _closing(items, index) if item.opens else index
        blank = item.blank_before and not opened and item.kind != CLOSING
        short = _short_block(source, items[index : closing + 1]) if closing > index else ""
        if short:
            yield _Row([Line(0, short, items[closing].trailing)], blank)
            index = closing
        else:
            yield _row(item, blank)
        opened = item.opens and not short
        index += 1


def _closing(items: Sequence[Item], opening: int) -> int:
    return next(i for i in range(opening, len(items)) if items[i].kind == CLOSING)


def _row(item: Item, blank: bool) -> _Row:
    indent = INDENT * item.level
    if item.kind == COMMENT:
        (comment,) = item.pieces
        assert isinstance(comment, Comment), "an item of kind comment is one"
        return _Row([Line(indent, "", comment.text)], blank)
    lines = lines_of_item(item.pieces, indent, item.trailing)
    aligned = item.kind if item.kind in _ALIGNED and len(lines) == 1 else ""
    return _Row(lines, blank, aligned)


def _short_block(source: Source, items: Sequence[Item]) -> str:
    """A block on one line, empty if it is to be laid out on several."""
    head, *inside, closing = items
    if any(isinstance(piece, Comment) for item in items for piece in item.pieces):
        return ""
    if head.trailing or any(item.trailing for item in inside):
        return ""
    if not inside:
        text = f"{one_line(head.pieces)}}}"
    elif _on_one_line(source, head, inside[0]):
        items_text = "  ".join(one_line(item.pieces) for item in inside)
        text = f"{one_line(head.pieces)} {items_text} {one_line(closing.pieces)}"
    else:
        return ""
    return text if len(text) <= WIDTH else ""


def _on_one_line(source: Source, head: Item, first: Item) -> bool:
    before, after = place(head.pieces[-1]), place(first.pieces[0])
    return source.position(before.end).line == source.position(after.start).line


# --- columns ---------------------------------------------------------------------------------


def _text(rows: list[_Row]) -> str:
    rows = [row for run in _runs(rows) for row in _with_aligned_signs(run)]
    lines: list[tuple[Line, bool]] = []
    for row in rows:
        lines += [(line, row.blank_before and line is row.lines[0]) for line in row.lines]
    return "".join(_shown(lines))


def _runs(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    """Neighbours whose `=` are lined up; every other row alone."""
    run: list[_Row] = []
    for row in rows:
        if run and row.aligned and row.aligned == run[-1].aligned and not row.blank_before:
            run.append(row)
            continue
        if run:
            yield run
        run = [row]
    if run:
        yield run


def _with_aligned_signs(run: list[_Row]) -> list[_Row]:
    """Unchanged if a line would become too wide."""
    if len(run) == 1:
        return run
    parts = [row.lines[0].text.partition(" = ") for row in run]
    column = max(len(name) for name, _, _ in parts)
    texts = [f"{name:<{column}}{sign}{value}" for name, sign, value in parts]
    indent = run[0].lines[0].indent
    if any(indent + len(text) > WIDTH for text in texts):
        return run
    return [
        replace(row, lines=[replace(row.lines[0], text=text)])
        for row, text in zip(run, texts, strict=True)
    ]


def _shown(lines: Sequence[tuple[Line, bool]]) -> Iterator[str]:
    """Lines with their comments, those that follow each other in one column."""
    columns = [line.indent + len(line.text) + BEFORE_COMMENT for line, _ in lines]
    for group in _comment_runs(lines):
        widest = max(columns[index] for index in group)
        for index in group:
            columns[index] = widest
    for column, (line, blank) in zip(columns, lines, strict=True):
        text = f"{' ' * line.indent}{line.text or line.comment}"
        if line.text and line.comment:
            text = f"{text:<{column}}{line.comment}"
        yield f"{chr(10) * blank}{text}\n"


def _comment_runs(lines: Sequence[tuple[Line, bool]]) -> list[list[int]]:
    """Indices of neighbours of one indentation that all have a comment behind them."""
    behind = [index for index, (line, _) in enumerate(lines) if line.text and line.comment]
    runs: list[list[int]] = [[index] for index in behind[:1]]
    for before, index in pairwise(behind):
        line, blank = lines[index]
        if index == before + 1 and not blank and line.indent == lines[before][0].indent:
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs
