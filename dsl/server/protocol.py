"""What is known of a document as the protocol's types: one method per question editors ask.

Only words and units change here; what is true of a strategy is found in the modules beside it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from lsprotocol import types

from mserve.dsl.diagnostics import Diagnostic, Edit, Severity
from mserve.dsl.server import outline
from mserve.dsl.server.actions import problems_at, quick_fixes
from mserve.dsl.server.completion import Item, complete
from mserve.dsl.server.document import Document
from mserve.dsl.server.edits import fix_edits, format_edits
from mserve.dsl.server.highlighting import LEGEND, MARKS, coloured_names
from mserve.dsl.server.hover import hover_at, markdown_of
from mserve.dsl.server.positions import Encoding, Positions
from mserve.dsl.server.rename import renamable_at, rename_at
from mserve.dsl.server.signature import Signature, call_at
from mserve.dsl.syntax import Span

SOURCE = "mserve"
EXPLAIN = "mserve.explain"
FIX_ALL = f"{types.CodeActionKind.SourceFixAll.value}.mserve"
TRIGGERS = (" ", "(")  # on a blank, only where a name must follow
SEMANTIC_LEGEND = types.SemanticTokensLegend(list(LEGEND), list(MARKS))

_UNNECESSARY = frozenset(["unused-binding", "unused-param", "unused-pool", "unreachable-route"])
_TAB_STOP = re.compile(r"\$\{\d+:([^}]*)\}|\$\{?\d+\}?")
_SYMBOLS = {
    "param": types.SymbolKind.Constant,
    "pool": types.SymbolKind.Class,
    "binding": types.SymbolKind.Variable,
    "definition": types.SymbolKind.Function,
    "route": types.SymbolKind.Method,
    "test": types.SymbolKind.Event,
}
_COMPLETIONS = {
    "keyword": types.CompletionItemKind.Keyword,
    "param": types.CompletionItemKind.Constant,
    "pool": types.CompletionItemKind.Class,
    "binding": types.CompletionItemKind.Variable,
    "variable": types.CompletionItemKind.Variable,
    "parameter": types.CompletionItemKind.Variable,
    "setting": types.CompletionItemKind.Property,
    "word": types.CompletionItemKind.EnumMember,
    "route": types.CompletionItemKind.Method,
    "snippet": types.CompletionItemKind.Snippet,
}  # all else is a function


@dataclass(frozen=True, slots=True)
class Client:
    """What the editor can do, as it said when it connected."""

    encoding: Encoding = Encoding.UTF16
    snippets: bool = False
    related_information: bool = False
    shows_documents: bool = False


@dataclass(frozen=True)
class View:
    """A document as a client is told of it."""

    document: Document
    client: Client

    @cached_property
    def _positions(self) -> Positions:
        document = self.document
        return Positions(document.source, self.client.encoding, has_mark=document.has_mark)

    def offset(self, position: types.Position) -> int:
        return self._positions.offset(position.line, position.character)

    def span(self, range_: types.Range) -> Span:
        return Span(self.offset(range_.start), self.offset(range_.end))

    def range(self, span: Span) -> types.Range:
        start, end = self._positions.at(span.start), self._positions.at(span.end)
        return types.Range(types.Position(*start), types.Position(*end))

    def _edits(self, edits: Iterable[Edit]) -> list[types.TextEdit]:
        return [types.TextEdit(self.range(edit.span), edit.text) for edit in edits]

    def _workspace_edit(self, edits: Iterable[Edit]) -> types.WorkspaceEdit:
        return types.WorkspaceEdit(changes={self.document.uri: self._edits(edits)})

    # --- diagnostics and what can be done about them -----------------------------------------

    def diagnostics(self) -> list[types.Diagnostic]:
        return [self.diagnostic(each) for each in self.document.checked.diagnostics]

    def diagnostic(self, each: Diagnostic, source: str = SOURCE) -> types.Diagnostic:
        reason = f": {each.labels[0].text}" if each.labels[0].text else ""
        help_ = f"\nhelp: {each.help}" if each.help else ""
        is_error = each.severity is Severity.ERROR
        severity = types.DiagnosticSeverity.Error if is_error else types.DiagnosticSeverity.Warning
        unnecessary = each.rule in _UNNECESSARY
        return types.Diagnostic(
            self.range(each.span),
            f"{each.message}{reason}{help_}",
            severity,
            code=each.rule,
            source=source,
            tags=[types.DiagnosticTag.Unnecessary] if unnecessary else None,
            related_information=self._related(each),
        )

    def _related(self, each: Diagnostic) -> list[types.DiagnosticRelatedInformation] | None:
        labels = [label for label in each.labels[1:] if label.text]
        if not labels or not self.client.related_information:
            return None
        return [
            types.DiagnosticRelatedInformation(
                types.Location(self.document.uri, self.range(label.span)), label.text
            )
            for label in labels
        ]

    def code_actions(self, params: types.CodeActionParams) -> list[types.CodeAction]:
        span = self.span(params.range)
        kinds = types.CodeActionKind
        actions = [
            types.CodeAction(
                fix.title,
                kinds.QuickFix,
                diagnostics=[self.diagnostic(fix.diagnostic)],
                is_preferred=True,
                edit=self._workspace_edit(fix.edits),
            )
            for fix in quick_fixes(self.document, span)
        ]
        rules = dict.fromkeys(each.rule for each in problems_at(self.document, span))
        for rule in rules:
            title = f"Explain {rule}"
            command = types.Command(title, EXPLAIN, arguments=[rule])
            actions.append(types.CodeAction(title, kinds.QuickFix, command=command))
        if any(each.fix for each in self.document.checked.diagnostics):
            edit = self._workspace_edit(fix_edits(self.document))
            actions.append(types.CodeAction("Fix all that is safe to fix", FIX_ALL, edit=edit))
        wanted = [str(getattr(kind, "value", kind)) for kind in params.context.only or [""]]
        return [each for each in actions if any(_is_kind(each, kind) for kind in wanted)]

    # --- names -------------------------------------------------------------------------------

    def hover(self, params: types.HoverParams) -> types.Hover | None:
        shown = hover_at(self.document, self.offset(params.position))
        return (
            None
            if shown is None
            else types.Hover(_markdown(shown.markdown), self.range(shown.span))
        )

    def definition(self, params: types.DefinitionParams) -> types.Location | None:
        span = self.document.navigation.definition(self.offset(params.position))
        return None if span is None else types.Location(self.document.uri, self.range(span))

    def references(self, params: types.ReferenceParams) -> list[types.Location]:
        offset, navigation = self.offset(params.position), self.document.navigation
        declared = navigation.definition(offset)
        left_out = None if params.context.include_declaration else declared
        spans = [span for span in navigation.references(offset) if span != left_out]
        return [types.Location(self.document.uri, self.range(span)) for span in spans]

    def highlights(self, params: types.DocumentHighlightParams) -> list[types.DocumentHighlight]:
        offset, navigation = self.offset(params.position), self.document.navigation
        declared, kinds = navigation.definition(offset), types.DocumentHighlightKind
        return [
            types.DocumentHighlight(self.range(s), kinds.Write if s == declared else kinds.Read)
            for s in navigation.references(offset)
        ]

    def renamable(self, params: types.PrepareRenameParams) -> types.Range:
        """Raises CannotRename."""
        return self.range(renamable_at(self.document, self.offset(params.position)))

    def rename(self, params: types.RenameParams) -> types.WorkspaceEdit:
        """Raises CannotRename."""
        name = params.new_name
        spans = rename_at(self.document, self.offset(params.position), name)
        return self._workspace_edit(Edit(span, name) for span in spans)

    # --- writing -----------------------------------------------------------------------------

    def completion(self, params: types.CompletionParams) -> types.CompletionList:
        found = complete(
            self.document.source, self.offset(params.position), self.document.navigation
        )
        blank = params.context is not None and params.context.trigger_character == " "
        range_ = self.range(found.span)
        items = () if blank and not found.needed else found.items
        made = [self._completion_item(item, n, range_) for n, item in enumerate(items)]
        return types.CompletionList(is_incomplete=False, items=made)

    def _completion_item(self, item: Item, order: int, range_: types.Range) -> types.CompletionItem:
        text, formats = item.snippet or item.label, types.InsertTextFormat
        is_snippet = bool(item.snippet) and self.client.snippets
        if item.snippet and not is_snippet:
            text = _TAB_STOP.sub(lambda stop: stop[1] or "", item.snippet)
        return types.CompletionItem(
            item.label,
            kind=_COMPLETIONS.get(item.kind, types.CompletionItemKind.Function),
            detail=item.detail or item.code,
            documentation=_markdown(markdown_of(item.code, "", item.doc)),
            sort_text=f"{order:04}",
            insert_text_format=formats.Snippet if is_snippet else formats.PlainText,
            text_edit=types.TextEdit(range_, text),
        )

    def signature_help(self, params: types.SignatureHelpParams) -> types.SignatureHelp | None:
        call = call_at(self.document, self.offset(params.position))
        if call is None:
            return None
        return types.SignatureHelp([_signature(each) for each in call.signatures], 0, call.active)

    def formatting(self) -> list[types.TextEdit]:
        return self._edits(format_edits(self.document))

    # --- the whole file ----------------------------------------------------------------------

    def symbols(self) -> list[types.DocumentSymbol]:
        return [
            types.DocumentSymbol(
                each.name or each.kind,
                _SYMBOLS.get(each.kind, types.SymbolKind.Object),
                self.range(each.span),
                self.range(each.name_span),
                detail=each.detail,
            )
            for each in self.document.navigation.symbols()
        ]

    def folds(self) -> list[types.FoldingRange]:
        kinds = types.FoldingRangeKind
        return [
            types.FoldingRange(
                f.first, f.last, kind=kinds.Comment if f.is_comment else kinds.Region
            )
            for f in outline.folds(self.document)
        ]

    def lenses(self) -> list[types.CodeLens]:
        uri = self.document.uri
        return [
            types.CodeLens(
                self.range(each.span),
                types.Command(each.title, each.command, arguments=[uri, each.subject]),
            )
            for each in outline.lenses(self.document)
        ]

    def semantic_tokens(self) -> types.SemanticTokens:
        """Each token as five numbers, its place relative to the one before."""
        data: list[int] = []
        line = column = 0
        for each in coloured_names(self.document):
            at = self.range(each.span)
            down, right = at.start.line - line, at.start.character
            marks = sum(1 << MARKS.index(mark) for mark in each.marks)
            length = at.end.character - at.start.character
            data += [
                down,
                right if down else right - column,
                length,
                LEGEND.index(each.kind),
                marks,
            ]
            line, column = at.start.line, at.start.character
        return types.SemanticTokens(data)


def _markdown(text: str) -> types.MarkupContent:
    return types.MarkupContent(types.MarkupKind.Markdown, text)


def _signature(each: Signature) -> types.SignatureInformation:
    parameters = [types.ParameterInformation(name) for name in each.parameters]
    return types.SignatureInformation(each.label, each.doc or None, parameters)


def _is_kind(action: types.CodeAction, wanted: str) -> bool:
    """Kinds are a hierarchy with dots; `source` actions come only when asked for."""
    kind = str(getattr(action.kind, "value", action.kind))
    if not wanted:
        return True
    return kind == wanted or kind.startswith(f"{wanted}.")
