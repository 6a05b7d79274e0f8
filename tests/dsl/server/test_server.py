"""The server as editors meet it: the process `mserve lsp`, and messages through its pipes."""

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

ANSWER_S = 20.0
URI = "file:///work/😀.mserve"
TEXT = """\
strategy served "what 😀 a client sees"
pool workers
let d = argmin(load(w) for w in workers)   # 😀 the calm one
route short when tokens(prompt) < 256 { generate on d }
route rest_of_them { generate on next(workers) }
test "short" { given tokens(prompt) = 5  expect route short }
test "wrong" { given tokens(prompt) = 999  expect route short }
"""
CAPABILITIES: dict[str, Any] = {
    "general": {"positionEncodings": ["utf-8", "utf-16"]},
    "window": {"showDocument": {"support": True}},
    "textDocument": {
        "completion": {"completionItem": {"snippetSupport": True}},
        "publishDiagnostics": {"relatedInformation": True},
        "rename": {"prepareSupport": True},
    },
}


class Client:
    """A language client over the pipes of a process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._unread: list[dict[str, Any]] = []
        self._num_requests = 0
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def request(self, method: str, **params: Any) -> Any:
        answer = self.answer_of(method, **params)
        assert "error" not in answer, answer
        return answer["result"]

    def answer_of(self, method: str, **params: Any) -> dict[str, Any]:
        self._num_requests += 1
        number = self._num_requests
        self._send({"id": number, "method": method, "params": params})
        return self._wait(lambda each: each.get("id") == number and "method" not in each)

    def notify(self, method: str, **params: Any) -> None:
        self._send({"method": method, "params": params})

    def told(self, method: str) -> Any:
        """The parameters of the next message of the server's own."""
        return self._wait(lambda each: each.get("method") == method)["params"]

    def stop(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        code = self.process.wait(ANSWER_S)
        self._reader.join(ANSWER_S)
        return code

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self.process.stdin is not None
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self.process.stdin.flush()

    def _wait(self, wanted: Any) -> dict[str, Any]:
        until = time.monotonic() + ANSWER_S
        while True:
            for each in self._unread:
                if wanted(each):
                    self._unread.remove(each)
                    return each
            found = self._answers.get(timeout=until - time.monotonic())
            assert found is not None, "the server ended before it answered"
            self._unread.append(found)

    def _read(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        with stream:
            while header := stream.readline():
                if header.lower().startswith(b"content-length:"):
                    size = int(header.split(b":")[1])
                while stream.readline().strip():
                    pass
                self._answers.put(json.loads(stream.read(size)))
        self._answers.put(None)

    # --- what tests ask ----------------------------------------------------------------------

    def open(self, text: str, uri: str = URI, language: str = "mserve") -> None:
        item = {"uri": uri, "languageId": language, "version": 1, "text": text}
        self.notify("textDocument/didOpen", textDocument=item)

    def change(self, text: str, version: int, uri: str = URI) -> None:
        document = {"uri": uri, "version": version}
        self.notify(
            "textDocument/didChange", textDocument=document, contentChanges=[{"text": text}]
        )

    def close(self, uri: str = URI) -> None:
        self.notify("textDocument/didClose", textDocument={"uri": uri})

    def at(self, method: str, marked: str, text: str = TEXT, **params: Any) -> Any:
        return self.request(method, **place(marked, text), **params)


def place(context: str, text: str = TEXT) -> dict[str, Any]:
    before, after = context.split("|")
    assert text.count(before + after) == 1, "a context stands in the text once"
    above = text[: text.index(before + after) + len(before)]
    column = len(above.rpartition("\n")[2].encode())  # utf-8, as was agreed
    position = {"line": above.count("\n"), "character": column}
    return {"textDocument": {"uri": URI}, "position": position}


@contextmanager
def serving(capabilities: dict[str, Any]) -> Iterator[tuple[Client, dict[str, Any]]]:
    argv = [sys.executable, "-m", "mserve", "lsp"]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    client = Client(process)
    try:
        told = client.request("initialize", processId=None, rootUri=None, capabilities=capabilities)
        client.notify("initialized")
        yield client, told["capabilities"]
    finally:
        client.stop()


@pytest.fixture(scope="module")
def session() -> Iterator[tuple[Client, dict[str, Any]]]:
    with serving(CAPABILITIES) as started:
        yield started


@pytest.fixture
def client(session: tuple[Client, dict[str, Any]]) -> Iterator[Client]:
    """With the text open, and what was said about it read."""
    client = session[0]
    client.open(TEXT)
    assert client.told("textDocument/publishDiagnostics")["diagnostics"] == []
    yield client
    client.close()
    assert client.told("textDocument/publishDiagnostics")["diagnostics"] == []


def test_it_offers_what_it_can(session: tuple[Client, dict[str, Any]]) -> None:
    capabilities = session[1]
    assert capabilities["positionEncoding"] == "utf-8"
    assert capabilities["textDocumentSync"]["change"] == 1
    assert capabilities["renameProvider"] == {"prepareProvider": True}
    commands = capabilities["executeCommandProvider"]["commands"]
    assert set(commands) == {"mserve.plan", "mserve.test", "mserve.explain"}
    for name in ("hover", "definition", "references", "documentHighlight", "documentSymbol",
                 "documentFormatting", "codeAction", "codeLens", "completion", "foldingRange",
                 "semanticTokens", "signatureHelp"):  # fmt: skip
        assert capabilities[f"{name}Provider"]


def test_mistakes_are_told_when_they_are_made_and_taken_back_when_mended(client: Client) -> None:
    client.change(TEXT.replace("on next(workers)", "on next(worker)"), 2)
    told = client.told("textDocument/publishDiagnostics")
    assert (told["uri"], told["version"]) == (URI, 2)
    (found,) = told["diagnostics"]
    assert (found["code"], found["severity"], found["source"]) == ("unknown-name", 1, "mserve")
    assert found["range"]["start"] == place("on next(|workers)")["position"]
    assert "workers" in found["message"]
    client.change(TEXT, 3)
    told = client.told("textDocument/publishDiagnostics")
    assert (told["version"], told["diagnostics"]) == (3, [])


def test_fast_typing_is_checked_once(client: Client) -> None:
    for version in range(2, 12):
        client.change(TEXT[: -version * 5], version)
    client.change(TEXT, 12)
    assert client.told("textDocument/publishDiagnostics")["version"] == 12


def test_unused_names_fade_and_other_places_are_related(client: Client) -> None:
    client.change(TEXT + "let unused = 5s\nlet d = 5s\n", 2)
    found = {each["code"]: each for each in client.told("textDocument/publishDiagnostics")["diagnostics"]}  # fmt: skip
    assert found["unused-binding"]["tags"] == [1]
    assert found["unused-binding"]["severity"] == 2
    (related,) = found["duplicate-name"]["relatedInformation"]
    assert related["location"]["range"]["start"] == place("let |d =")["position"]


def test_completion_of_a_half_written_line(client: Client) -> None:
    text = TEXT + "route more { generate on "
    client.change(text, 2)
    found = client.at("textDocument/completion", "route more { generate on |", text)["items"]
    labels = [each["label"] for each in sorted(found, key=lambda each: each["sortText"])]
    assert labels[0] == "d"
    assert "next" in labels
    assert "tokens" not in labels
    best = found[labels.index("d")]
    assert best["detail"] == "a worker of `workers`"
    assert "the calm one" in best["documentation"]["value"]
    choice = next(each for each in found if each["label"] == "argmin")
    assert choice["insertTextFormat"] == 2
    blank = {"triggerKind": 2, "triggerCharacter": " "}
    assert client.at("textDocument/completion", "on |d }", text, context=blank)["items"]
    assert not client.at("textDocument/completion", "on d |}", text, context=blank)["items"]
    client.told("textDocument/publishDiagnostics")


def test_names_behind_characters_of_several_units(client: Client) -> None:
    hover = client.at("textDocument/hover", "generate on |d }")
    assert "let d = argmin" in hover["contents"]["value"]
    where = client.at("textDocument/definition", "generate on |d }")
    assert where["range"]["start"] == place("let |d =")["position"]
    context = {"includeDeclaration": False}
    uses = client.at("textDocument/references", "let |d =", context=context)
    assert [each["range"]["start"] for each in uses] == [place("on |d }")["position"]]
    marked = client.at("textDocument/documentHighlight", "let |d =")
    assert [each["kind"] for each in marked] == [3, 2]


def test_rename(client: Client) -> None:
    assert client.at("textDocument/prepareRename", "let |d =")["start"] == place("let |d =")["position"]  # fmt: skip
    edits = client.at("textDocument/rename", "let |d =", newName="calm")["changes"][URI]
    assert [each["newText"] for each in edits] == ["calm", "calm"]
    refused = client.answer_of("textDocument/rename", **place("let |d ="), newName="on")
    assert refused["error"] == {"code": -32803, "message": "`on` is a keyword."}
    refused = client.answer_of("textDocument/prepareRename", **place("argmin(|load(w)"))
    assert "part of the language" in refused["error"]["message"]


def test_formatting_and_the_outline(client: Client) -> None:
    document = {"uri": URI}
    client.change(TEXT.replace("pool workers", "pool   workers"), 2)
    options = {"tabSize": 2, "insertSpaces": True}
    (edit,) = client.request("textDocument/formatting", textDocument=document, options=options)
    assert edit["newText"] == ""
    assert edit["range"]["start"]["line"] == edit["range"]["end"]["line"] == 1
    symbols = client.request("textDocument/documentSymbol", textDocument=document)
    assert [each["name"] for each in symbols] == ["workers", "d", "short", "rest_of_them", "short", "wrong"]  # fmt: skip
    assert len(client.request("textDocument/semanticTokens/full", textDocument=document)["data"]) > 50  # fmt: skip
    assert client.request("textDocument/foldingRange", textDocument=document) == []
    help_ = client.at("textDocument/signatureHelp", "argmin(load(|w)")
    assert help_["signatures"][0]["label"] == "load(WORKER)"
    client.told("textDocument/publishDiagnostics")


def test_code_actions(client: Client) -> None:
    text = TEXT.replace("load(w)", "laod(w)")
    client.change(text, 2)
    (problem,) = client.told("textDocument/publishDiagnostics")["diagnostics"]
    asked = {"textDocument": {"uri": URI}, "range": problem["range"]}
    fix, explain, fix_all = client.request(
        "textDocument/codeAction", **asked, context={"diagnostics": []}
    )
    assert (fix["title"], fix["kind"], fix["isPreferred"]) == ("Replace laod by load", "quickfix", True)  # fmt: skip
    assert fix["diagnostics"] == [problem]
    assert [each["newText"] for each in fix["edit"]["changes"][URI]] == ["load"]
    only = {"diagnostics": [], "only": ["source.fixAll"]}
    assert client.request("textDocument/codeAction", **asked, context=only) == [fix_all]
    page = client.request("workspace/executeCommand", **explain["command"])
    assert page.startswith("# unknown-name\n")
    assert client.told("window/showDocument")["uri"].endswith("unknown-name.md")


def test_lenses_plan_and_run_tests(client: Client) -> None:
    lenses = client.request("textDocument/codeLens", textDocument={"uri": URI})
    commands = [lens["command"] for lens in lenses]
    assert [(each["title"], each["arguments"]) for each in commands] == [
        ("plan", [URI, None]),
        ("run all tests", [URI, None]),
        ("plan", [URI, "short"]),
        ("plan", [URI, "rest_of_them"]),
        ("run test", [URI, "short"]),
        ("run test", [URI, "wrong"]),
    ]
    plan = client.request("workspace/executeCommand", **commands[2])
    assert "route short" in plan
    assert "rest_of_them" not in plan
    shown = client.told("window/showDocument")
    assert shown["external"] is True
    assert "<svg" in Path(urlparse(shown["uri"]).path.replace("%F0%9F%98%80", "😀")).read_text("utf-8")  # fmt: skip
    report = client.request("workspace/executeCommand", **commands[1])
    assert "FAIL  wrong" in report
    assert client.told("window/showMessage")["message"] == '1 of 2 tests failed: "wrong".'
    (failure,) = client.told("textDocument/publishDiagnostics")["diagnostics"]
    assert failure["source"] == "mserve test"
    assert failure["range"]["start"] == place('test |"wrong"')["position"]
    assert "expected route short, got rest_of_them" in failure["message"]
    client.request("workspace/executeCommand", **commands[4])
    assert client.told("window/showMessage") == {"type": 3, "message": '"short" passed.'}
    assert client.told("textDocument/publishDiagnostics")["diagnostics"] == []


def test_commands_that_make_no_sense_are_refused_with_a_sentence(client: Client) -> None:
    def refusal(command: str, *arguments: Any) -> str:
        result = client.request("workspace/executeCommand", command=command, arguments=arguments)
        assert result is None
        message: str = client.told("window/showMessage")["message"]
        return message

    assert refusal("mserve.plan", URI, "nowhere") == "There is no route `nowhere`."
    assert refusal("mserve.test", URI, "nothing") == "There is no test `nothing`."
    assert "cannot be read" in refusal("mserve.plan", "file:///nowhere.mserve", None)
    client.change(TEXT.replace("load(w)", "laod(w)"), 2)
    assert "the first is in line 3" in refusal("mserve.plan", URI, None)
    client.told("textDocument/publishDiagnostics")
    client.request("workspace/executeCommand", command="mserve.plan", arguments=[])
    assert "error of mserve" in client.told("window/logMessage")["message"]


def test_files_of_other_languages_are_none_of_its_business(client: Client) -> None:
    other = "file:///work/other.py"
    client.open("import this", other, "python")
    client.change("import that", 2, other)
    asked = {"textDocument": {"uri": other}, "position": {"line": 0, "character": 3}}
    assert client.request("textDocument/hover", **asked) is None
    assert client.request("textDocument/codeLens", textDocument={"uri": other}) is None
    client.close(other)
    assert not [each for each in client._unread if "publishDiagnostics" in each.get("method", "")]


def test_an_editor_that_can_little_is_served_as_well(tmp_path: Path) -> None:
    file = tmp_path / "closed.mserve"
    file.write_text(TEXT, "utf-8")
    with serving({}) as (client, capabilities):
        assert capabilities["positionEncoding"] == "utf-16"
        client.open(TEXT + "pool x { q")
        (problem, *_) = client.told("textDocument/publishDiagnostics")["diagnostics"]
        assert problem["message"]
        position = {"line": 7, "character": 10}
        items = client.request("textDocument/completion", textDocument={"uri": URI}, position=position)["items"]  # fmt: skip
        assert {each["insertTextFormat"] for each in items} == {1}
        assert "gpus = " in [each["textEdit"]["newText"] for each in items]
        plan = client.request("workspace/executeCommand", command="mserve.plan", arguments=[file.as_uri(), None])  # fmt: skip
        assert client.told("window/showMessage")["message"] == plan
        assert client.request("shutdown") is None
        client.notify("exit")
        assert client.process.wait(ANSWER_S) == 0


def test_it_ends_when_its_client_goes_away() -> None:
    with serving({}) as (client, _):
        assert client.stop() == 1
