"""The language server over pygls: keeps the open documents, answers, publishes, runs commands.

The only module that imports pygls. Documents are replaced whole with every change, so no count of
code units can go astray. An error of ours is logged and answered with nothing: the server lives on.
"""

import asyncio
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from lsprotocol import types
from pygls.capabilities import get_capability
from pygls.exceptions import JsonRpcException
from pygls.lsp.server import LanguageServer
from pygls.uris import from_fs_path, to_fs_path

from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.rules import RULES, page_of
from mserve.dsl.server.commands import Commands, Refused
from mserve.dsl.server.document import Document
from mserve.dsl.server.outline import PLAN, TEST
from mserve.dsl.server.positions import Encoding
from mserve.dsl.server.protocol import (
    EXPLAIN,
    FIX_ALL,
    SEMANTIC_LEGEND,
    TRIGGERS,
    Client,
    View,
)
from mserve.dsl.server.rename import CannotRename

DEBOUNCE_S = 0.05  # what is typed faster is checked once
LANGUAGE = "mserve"
_REQUEST_FAILED = -32803  # LSP 3.17: the request is well formed, the client shows the message
_CODE_ACTIONS = types.CodeActionOptions([types.CodeActionKind.QuickFix, FIX_ALL])
_COMPLETION = types.CompletionOptions(trigger_characters=list(TRIGGERS))
_SIGNATURE = types.SignatureHelpOptions(trigger_characters=["(", ","])

_log = logging.getLogger(__name__)


class StrategyServer:
    """Serves one client. Owns its documents, their pending checks and the failures of their tests."""

    def __init__(self, commands: Commands, version: str) -> None:
        full = types.TextDocumentSyncKind.Full
        self._lsp = LanguageServer("mserve", version, text_document_sync_kind=full)
        self._commands = commands
        self._client = Client()
        self._documents: dict[str, Document] = {}
        self._pending: dict[str, asyncio.TimerHandle] = {}
        self._failures: dict[str, tuple[Diagnostic, ...]] = {}
        self._pages: tempfile.TemporaryDirectory[str] | None = None  # what was shown
        self._was_shut_down = False
        self._register()

    def serve(self, stdin: BinaryIO, stdout: BinaryIO) -> int:
        """Until the client says `exit` or goes away; 1 if it did so without `shutdown`."""
        try:
            self._lsp.start_io(stdin, stdout)
        finally:
            if self._pages is not None:
                self._pages.cleanup()
        return 0 if self._was_shut_down else 1

    # --- what is asked -----------------------------------------------------------------------

    def _register(self) -> None:
        on = self._notified
        on(types.INITIALIZE, self._initialize)
        on(types.SHUTDOWN, self._shut_down)
        on(types.TEXT_DOCUMENT_DID_OPEN, self._open)
        on(types.TEXT_DOCUMENT_DID_CHANGE, self._change)
        on(types.TEXT_DOCUMENT_DID_CLOSE, self._close)
        asked = self._asked
        asked(types.TEXT_DOCUMENT_HOVER, View.hover)
        asked(types.TEXT_DOCUMENT_DEFINITION, View.definition)
        asked(types.TEXT_DOCUMENT_REFERENCES, View.references)
        asked(types.TEXT_DOCUMENT_DOCUMENT_HIGHLIGHT, View.highlights)
        asked(types.TEXT_DOCUMENT_PREPARE_RENAME, View.renamable)
        asked(types.TEXT_DOCUMENT_RENAME, View.rename)
        asked(types.TEXT_DOCUMENT_COMPLETION, View.completion, _COMPLETION)
        asked(types.TEXT_DOCUMENT_SIGNATURE_HELP, View.signature_help, _SIGNATURE)
        asked(types.TEXT_DOCUMENT_CODE_ACTION, View.code_actions, _CODE_ACTIONS)
        asked(types.TEXT_DOCUMENT_FORMATTING, lambda view, _: view.formatting())
        asked(types.TEXT_DOCUMENT_DOCUMENT_SYMBOL, lambda view, _: view.symbols())
        asked(types.TEXT_DOCUMENT_FOLDING_RANGE, lambda view, _: view.folds())
        asked(types.TEXT_DOCUMENT_CODE_LENS, lambda view, _: view.lenses())
        tokens = types.TEXT_DOCUMENT_SEMANTIC_TOKENS_FULL
        asked(tokens, lambda view, _: view.semantic_tokens(), SEMANTIC_LEGEND)
        self._command(PLAN, self._plan)
        self._command(TEST, self._test)
        self._command(EXPLAIN, self._explain)

    def _notified(self, method: str, handle: Callable[[Any], None]) -> None:
        def handler(params: Any) -> None:
            try:
                handle(params)
            except Exception:
                self._report(method)

        self._lsp.feature(method)(handler)

    def _asked(self, method: str, answer: Callable[[View, Any], Any], options: Any = None) -> None:
        """Nothing is answered about files that are not open, or not strategies."""

        def handler(params: Any) -> Any:
            document = self._documents.get(params.text_document.uri)
            try:
                return None if document is None else answer(self._view(document), params)
            except CannotRename as refusal:
                raise JsonRpcException(str(refusal), _REQUEST_FAILED) from None
            except Exception:
                self._report(method)
                return None

        self._lsp.feature(method, options)(handler)

    def _report(self, doing: str) -> None:
        """An error of ours, in the client's log, too."""
        _log.exception("%s failed", doing)
        words = f"{doing} failed: this is an error of mserve, not of the file"
        self._lsp.window_log_message(types.LogMessageParams(types.MessageType.Error, words))

    def _view(self, document: Document) -> View:
        return View(document, self._client)

    # --- documents ---------------------------------------------------------------------------

    def _initialize(self, params: types.InitializeParams) -> None:
        def can(path: str) -> bool:
            return bool(get_capability(params.capabilities, path, False))

        encoding = self._lsp.workspace.position_encoding  # the first of the client's that we know
        self._client = Client(
            Encoding(str(getattr(encoding, "value", encoding))),
            can("text_document.completion.completion_item.snippet_support"),
            can("text_document.publish_diagnostics.related_information"),
            can("window.show_document.support"),
        )

    def _shut_down(self, _: Any) -> None:
        self._was_shut_down = True
        for uri in list(self._pending):
            self._cancel_check(uri)

    def _open(self, params: types.DidOpenTextDocumentParams) -> None:
        item = params.text_document
        if item.language_id == LANGUAGE or item.uri.endswith(f".{LANGUAGE}"):
            self._documents[item.uri] = Document(item.uri, item.version, item.text)
            self._publish(item.uri)

    def _change(self, params: types.DidChangeTextDocumentParams) -> None:
        uri, version = params.text_document.uri, params.text_document.version
        if uri not in self._documents or not params.content_changes:
            return
        self._documents[uri] = Document(uri, version, params.content_changes[-1].text)
        self._failures.pop(uri, None)  # they speak of a text that is no more
        self._cancel_check(uri)
        loop = asyncio.get_running_loop()
        self._pending[uri] = loop.call_later(DEBOUNCE_S, self._check, uri)

    def _close(self, params: types.DidCloseTextDocumentParams) -> None:
        uri = params.text_document.uri
        self._cancel_check(uri)
        self._failures.pop(uri, None)
        if self._documents.pop(uri, None) is not None:
            cleared = types.PublishDiagnosticsParams(uri, [])
            self._lsp.text_document_publish_diagnostics(cleared)

    def _cancel_check(self, uri: str) -> None:
        pending = self._pending.pop(uri, None)
        if pending is not None:
            pending.cancel()

    def _check(self, uri: str) -> None:
        del self._pending[uri]
        try:
            self._publish(uri)
        except Exception:
            self._report("the check")

    def _publish(self, uri: str) -> None:
        document = self._documents[uri]
        view = self._view(document)
        found = view.diagnostics()
        found += [view.diagnostic(each, "mserve test") for each in self._failures.get(uri, ())]
        params = types.PublishDiagnosticsParams(uri, found, document.version)
        self._lsp.text_document_publish_diagnostics(params)

    # --- commands ----------------------------------------------------------------------------

    def _command(self, name: str, run: Callable[..., Any]) -> None:
        async def handler(*arguments: Any) -> Any:
            try:
                return await run(*arguments)
            except Refused as refusal:
                self._say(types.MessageType.Error, str(refusal))
            except Exception:
                self._report(name)
            return None

        self._lsp.command(name)(handler)

    async def _plan(self, uri: str, route: str | None = None) -> str:
        """The plan as text; editors that can are shown a page."""
        document = self._found(uri)
        page = await asyncio.to_thread(self._commands.plan, document.checked, route)
        name = Path(uri).stem
        if not self._show(f"{name}-plan.html", page.html, external=True):
            self._say(types.MessageType.Info, page.text)
        return page.text

    async def _test(self, uri: str, title: str | None = None) -> str:
        """The report as text; what failed stands in the file until it is changed."""
        document = self._found(uri)
        verdict = await asyncio.to_thread(self._commands.test, document.checked, title)
        if self._documents.get(uri) is document:
            self._failures[uri] = verdict.failures
            self._publish(uri)
        kind = types.MessageType.Warning if verdict.failures else types.MessageType.Info
        self._say(kind, verdict.summary)
        return verdict.text

    async def _explain(self, rule: str) -> str:
        """The rule's page as text."""
        if rule not in RULES:
            raise Refused(f"There is no rule '{rule}'.")
        page = f"# {rule}\n\n{page_of(rule)}\n"
        if not self._show(f"{rule}.md", page, external=False):
            self._say(types.MessageType.Info, page)
        return page

    def _found(self, uri: str) -> Document:
        """An open document, or the file. Raises Refused."""
        if uri in self._documents:
            return self._documents[uri]
        path = to_fs_path(uri)
        try:
            return Document(uri, 0, Path(path or uri).read_text("utf-8"))
        except (OSError, UnicodeError, ValueError):
            raise Refused(f"{uri} is not open and cannot be read.") from None

    def _show(self, name: str, text: str, *, external: bool) -> bool:
        """Whether the client can show a file: it is asked to, outside of the editor or in it."""
        if not self._client.shows_documents:
            return False
        self._pages = self._pages or tempfile.TemporaryDirectory(prefix="mserve-lsp-")
        path = Path(self._pages.name, name)
        path.write_text(text, "utf-8", errors="replace")
        uri = from_fs_path(str(path))
        assert uri is not None, "a path that was just written has an address"
        self._lsp.window_show_document(types.ShowDocumentParams(uri, external=external))
        return True

    def _say(self, kind: types.MessageType, words: str) -> None:
        self._lsp.window_show_message(types.ShowMessageParams(kind, words))
