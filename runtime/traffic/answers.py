"""Answers of the OpenAI API as a client reads them: streamed ones with their times, and whole ones.

Pure functions of bytes and times: each event is decoded once, in about a microsecond. Knows no
connection.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
from msgspec import Struct

MAX_PROBLEM_BYTES = 64 << 10
ROUTE_HEADER = "x-mserve-plan"  # its value is `ID; route=NAME; version=N`
_DATA = b"data:"
_DONE = b"[DONE]"


class AnswerReader(Protocol):
    """What a connection hands an answer to, as it comes."""

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """The head of the answer; names of headers are in lower case."""
        ...

    def feed(self, data: bytes, now_s: float) -> None:
        """The next bytes of the body, and when they came."""
        ...


class _Details(Struct):
    cached_tokens: int | None = None


class Usage(Struct):
    """Counts in tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None

    @property
    def cached(self) -> int:
        details = self.prompt_tokens_details
        return (details.cached_tokens or 0) if details else 0


class _Choice(Struct):
    finish_reason: str | None = None


class Problem(Struct):
    """An error object. Servers disagree about the types of its other fields."""

    message: str = ""
    type: str | None = None


class _Event(Struct):
    choices: list[_Choice] = []
    usage: Usage | None = None
    error: Problem | str | None = None


_decode_event = msgspec.json.Decoder(_Event).decode


class _Refusal(Struct):
    """OpenAI's form; or FastAPI's, with a `detail`; or the error object alone."""

    error: Problem | str | None = None
    detail: Any = None
    message: str | None = None


class WholeAnswer:
    """A body that is of interest as a whole."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.body = bytearray()

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.status, self.headers = status, headers

    def feed(self, data: bytes, now_s: float) -> None:
        self.body += data

    @property
    def problem(self) -> str:
        """What the server said is wrong, as well as it can be found."""
        return problem_text(bytes(self.body))


class StreamedAnswer:
    """Server-sent events of one choice. Times are those of the caller's clock, in seconds.

    `failure` is (kind, words) where the server refused, or broke off with an error event.
    """

    def __init__(self) -> None:
        self.status = 0
        self.route = ""
        self.first_s: float | None = None  # the first piece of the answer
        self.last_s: float | None = None
        self.max_gap_s = 0.0  # between two of them
        self.num_pieces = 0
        self.usage: Usage | None = None
        self.is_done = False  # the last event has come, whatever the connection does then
        self._error: tuple[str, str] | None = None
        self._has_ended = False  # a choice gave its reason
        self._rest = b""  # of an event that is not whole yet; of a refusal, all of it
        self._is_stream = True

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        self.route = headers.get(ROUTE_HEADER, "").partition("route=")[2].partition(";")[0]
        kind = headers.get("content-type", "")
        self._is_stream = status == 200 and kind.startswith("text/event-stream")

    def feed(self, data: bytes, now_s: float) -> None:
        self._rest += data
        if not self._is_stream:
            self._rest = self._rest[:MAX_PROBLEM_BYTES]
            return
        if b"\r" in data:
            self._rest = self._rest.replace(b"\r\n", b"\n")
        *events, self._rest = self._rest.split(b"\n\n")
        for event in events:
            self._read(event, now_s)

    @property
    def failure(self) -> tuple[str, str] | None:
        """None also for a stream that is still under way."""
        if self.status not in (0, 200):
            return f"status {self.status}", problem_text(self._rest)
        if not self._is_stream:
            return "no event stream", "The server answers with something else than events."
        return self._error

    @property
    def num_output(self) -> int:
        """Tokens; pieces where the server does not say."""
        said = self.usage.completion_tokens if self.usage else 0
        return said or self.num_pieces

    def ended(self) -> tuple[str, str] | None:
        """The failure of an answer that nothing more comes of."""
        if self.failure is not None:
            return self.failure
        if not (self.is_done or self._has_ended):
            return "cut off", "The stream ended without its last event."
        if self.first_s is None:
            return "empty", "The answer has no token."
        return None

    def _read(self, event: bytes, now_s: float) -> None:
        if not event.startswith(_DATA):
            return  # a comment that keeps the connection alive
        payload = event[len(_DATA) :].strip()
        if payload == _DONE:
            self.is_done = True
            return
        try:
            read = _decode_event(payload)
        except msgspec.DecodeError as error:
            self._error = "malformed event", f"{error}."
            return
        if read.error is not None:
            self._error = _failed(read.error)
        if read.choices:
            self._piece(now_s)
            self._has_ended = self._has_ended or read.choices[0].finish_reason is not None
        self.usage = read.usage or self.usage

    def _piece(self, now_s: float) -> None:
        self.num_pieces += 1
        if self.last_s is None:
            self.first_s = now_s
        else:
            self.max_gap_s = max(self.max_gap_s, now_s - self.last_s)
        self.last_s = now_s


def _failed(problem: Problem | str) -> tuple[str, str]:
    if isinstance(problem, str):
        return "error event", problem
    return problem.type or "error event", problem.message


def problem_text(body: bytes) -> str:
    """The sentence in a refusal's body; its beginning where there is none."""
    try:
        refusal = msgspec.json.decode(body, type=_Refusal)
    except msgspec.DecodeError:
        return body[:200].decode(errors="replace").strip()
    if isinstance(refusal.error, Problem):
        return refusal.error.message
    return refusal.error or refusal.message or str(refusal.detail or "")
