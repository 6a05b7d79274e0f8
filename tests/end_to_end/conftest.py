"""Real clusters: `mserve serve` in its own process, asked over HTTP, ended by Ctrl-C."""

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch

from mserve.runtime.config import shipped_model

MSERVE = (sys.executable, "-m", "mserve")
TINY = shipped_model()
START_TIMEOUT_S = 60
CLUSTER_TOKEN = secrets.token_hex(16)  # with it workers answer the tests, too
Endpoint = Literal["completions", "chat"]
ENDPOINTS: Mapping[Endpoint, str] = {
    "completions": "/v1/completions",
    "chat": "/v1/chat/completions",
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass
class Server:
    """A running `mserve serve`."""

    process: subprocess.Popen[str]
    url: str
    log: list[str]  # what it wrote on standard error, growing
    worker_headers: dict[str, str]  # for calling its workers

    def ask(self, path: str, body: Any = None, raw: bytes | None = None) -> tuple[int, Any, Any]:
        """(status, JSON or text, headers)."""
        data = raw if raw is not None else json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(
            self.url + path, data, {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                status, text, headers = response.status, response.read(), response.headers
        except urllib.error.HTTPError as error:
            with error:
                status, text, headers = error.code, error.read(), error.headers
        is_json = headers["content-type"].startswith("application/json")
        return status, json.loads(text) if is_json else text.decode(), headers

    def workers(self) -> list[tuple[int, int]]:
        """(process of the HTTP front, process of the engine) of every worker."""
        fronts = [pid for pid in children(self.process.pid) if "worker" in arguments_of(pid)]
        return [(pid, engine) for pid in fronts for engine in children(pid)]

    def plan_of(self, headers: Any) -> Any:
        plan_id = headers["x-mserve-plan"].partition(";")[0]
        status, record, _ = self.ask(f"/v1/plans/{plan_id}")
        assert status == 200, record
        return record


@dataclass(frozen=True)
class Api:
    """One endpoint of a running cluster. Without other wishes answers are short and greedy."""

    TEXT: ClassVar[str] = "The old harbour was quiet that evening, and "
    NUM_TOKENS: ClassVar[int] = 5
    WARM: ClassVar[Mapping[str, Any]] = {"temperature": 2.0, "seed": 5}  # far from greedy

    server: Server
    endpoint: Endpoint

    @property
    def is_chat(self) -> bool:
        return self.endpoint == "chat"

    @cached_property
    def greedy(self) -> str:
        return self.text({})

    @cached_property
    def warm(self) -> str:
        return self.text(self.WARM)

    def send(self, fields: Mapping[str, Any]) -> tuple[int, Any]:
        prompt: dict[str, Any] = (
            {"messages": [{"role": "user", "content": self.TEXT}]}
            if self.is_chat
            else {"prompt": self.TEXT}
        )
        base = {"model": "mserve-tiny", "max_tokens": self.NUM_TOKENS, "temperature": 0, **prompt}
        status, answer, _ = self.server.ask(ENDPOINTS[self.endpoint], {**base, **fields})
        return status, answer

    def ask(self, fields: Mapping[str, Any]) -> Any:
        status, answer = self.send(fields)
        assert status == 200, answer
        return answer

    def events(self, fields: Mapping[str, Any]) -> list[Any]:
        """Of a streamed answer."""
        text = self.ask({**fields, "stream": True})
        parts = [part.removeprefix("data: ") for part in text.split("\n\n") if part]
        assert parts.pop() == "[DONE]"
        return [json.loads(part) for part in parts]

    def text(self, fields: Mapping[str, Any]) -> str:
        """Of the first choice, streamed or not."""
        if fields.get("stream"):
            choices = [choice for event in self.events(fields) for choice in event["choices"]]
            pieces = [c["delta"].get("content", "") if self.is_chat else c["text"] for c in choices]
            return "".join(pieces)
        return self.text_of(self.ask(fields)["choices"][0])

    def text_of(self, choice: Any) -> str:
        text: str = choice["message"]["content"] if self.is_chat else choice["text"]
        return text


Serve = Callable[..., Any]


@contextmanager
def serving(*arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Runs `mserve serve ...`; afterwards Ctrl-C must end all of it with exit code 0."""
    argv = [*MSERVE, "serve", *arguments, "--port", "0", "--log-level", "warning"]
    env = {**os.environ, "MSERVE_CLUSTER_TOKEN": CLUSTER_TOKEN, **(env or {})}
    process = subprocess.Popen(
        argv, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True
    )
    log: list[str] = []
    reader = None
    try:
        url = _ready_url(process, log)
        reader = threading.Thread(target=lambda: log.extend(process.stderr or ()), daemon=True)
        reader.start()  # a full pipe would stop the server
        yield Server(process, url, log, {"authorization": f"Bearer {CLUSTER_TOKEN}"})
        family = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0, "mserve serve did not end cleanly"
        assert not [pid for pid in family if is_running(pid)], "a process was left behind"
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stderr is not None
        if reader is not None:
            reader.join()
        process.stderr.close()


def _ready_url(process: subprocess.Popen[str], log: list[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        log.append(line)
        if found := re.search(r"ready: (https?://\S+)/v1", line):
            return found[1]
    raise AssertionError("mserve serve ended while it started:\n" + "".join(log))


def children(pid: int) -> list[int]:
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def descendants(pid: int) -> list[int]:
    return [each for child in children(pid) for each in (child, *descendants(child))]


def arguments_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="session")
def serve() -> Serve:
    return serving


@pytest.fixture(scope="module")
def completions(server: Server) -> Api:
    return Api(server, "completions")


@pytest.fixture(scope="module")
def chat(server: Server) -> Api:
    return Api(server, "chat")


class Reference:
    """A model folder and the greedy tokens that Hugging Face's transformers gives for it."""

    def __init__(self, folder: Path, model: Any) -> None:
        self.folder = folder
        self._model = model

    @cache  # noqa: B019 (there are two of them, for the whole session)
    def answer(self, prompt: tuple[int, ...], num_tokens: int) -> list[int]:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            out = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=num_tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        tokens: list[int] = out[0, len(prompt) :].tolist()
        return tokens


@pytest.fixture(scope="session")
def transformers() -> Any:
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)  # the servers under test need the other cores
    with warnings.catch_warnings():
        # The library's own imports warn about its dependencies' deprecations.
        warnings.simplefilter("ignore", DeprecationWarning)
        import transformers
    logging: Any = transformers.utils.logging
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    return transformers


@pytest.fixture(scope="session")
def tiny(transformers: Any) -> Reference:
    load = transformers.AutoModelForCausalLM.from_pretrained
    return Reference(TINY, load(TINY, dtype=torch.float32).eval())


@pytest.fixture(scope="session")
def random_llama(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Random weights, grouped queries (4 to 1), untied embeddings; the small model's tokenizer."""
    config = transformers.LlamaConfig(
        vocab_size=json.loads((TINY / "config.json").read_text())["vocab_size"],
        hidden_size=128,
        intermediate_size=224,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.2,  # large, so that answers vary and errors show
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(3)
    model = transformers.LlamaForCausalLM(config).eval()
    folder = tmp_path_factory.mktemp("random-llama")
    model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(TINY / name, folder / name)
    return Reference(folder, model)
