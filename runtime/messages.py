"""What router and worker say to each other: the body of a plan call and the frames of its answer.

A plan call carries everything one worker does for one plan: the prompt's tokens once, and that
worker's steps in order. Its connection is the cancel path. The answer is a stream of frames, each

    u32 length of what follows | u8 kind | u8 zero | u16 number of token ids | int32 token ids | payload

little endian. A TOKENS payload is relayed to the client unread; the others are msgpack.
"""

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from mserve.runtime.errors import BY_KIND, EngineFailure, RequestError


class Sampling(Struct, frozen=True, forbid_unknown_fields=True):
    """How to choose tokens and when to stop. `temperature` 0 is greedy; `top_k` 0 means off.

    The last `answered` tokens of the prompt are answer already: penalties count them.
    """

    max_tokens: Annotated[int, Meta(ge=1)]
    min_tokens: Annotated[int, Meta(ge=0)] = 0
    temperature: Annotated[float, Meta(ge=0)] = 1.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Meta(ge=-1, lt=1 << 31)] = 0
    seed: Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)] | None = None
    stop: Annotated[tuple[str, ...], Meta(max_length=16)] = ()
    stop_token_ids: Annotated[tuple[int, ...], Meta(max_length=64)] = ()
    ignore_eos: bool = False
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] = 1.0
    logit_bias: Annotated[dict[int, float], Meta(max_length=1024)] = {}
    grammar: str = ""  # of runtime/grammar.py: the form that the answer must have
    answered: Annotated[int, Meta(ge=0)] = 0
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None  # so many alternatives; None: off


class Logprobs(Struct, frozen=True):
    """How probable the model found a token, as natural logarithms, and the most probable ones.

    Of the model's own distribution: before penalties, biases, temperature and forms.
    """

    chosen: float
    top: tuple[tuple[int, float], ...]  # (token, logprob), the most probable first


class Render(Struct, frozen=True, forbid_unknown_fields=True):
    """What a TOKENS payload is: bare UTF-8 text, or ready server-sent events of the OpenAI API."""

    kind: Literal["text", "completion", "chat"] = "text"
    id: str = ""
    created: int = 0
    model: str = ""
    index: int = 0  # of the choice
    first: bool = True  # this stream begins the answer (chat: emit the role chunk)
    last: bool = True  # reaching max_tokens ends the answer; False: another worker goes on


class Receiver(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a send goes: the ticket and the worker that holds it."""

    ticket: str
    worker: str
    incarnation: str
    address: bytes  # of the worker's transport
    fingerprint: str  # of its KV layout


class PrepRecvCall(
    Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="prep_recv"
):
    step: str
    begin: int
    end: int
    ticket: str


class RemoteSendCall(
    Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="remote_send"
):
    step: str
    begin: int
    end: int
    to: tuple[Receiver, ...]
    uses: tuple[str, ...] = ()


class StartGenerateCall(
    Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="start_generate"
):
    step: str
    begin: int
    sampling: Sampling
    render: Render = Render()
    uses: tuple[str, ...] = ()


class CommitCall(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="commit"):
    step: str
    ticket: str


class ReleaseCall(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="release"):
    step: str
    ticket: str


StepCall = PrepRecvCall | RemoteSendCall | StartGenerateCall | CommitCall | ReleaseCall


class PlanCall(Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/microserving/plan`: all steps of one plan on one worker.

    `tokens` is the prompt as int32 little endian. `incarnation` is that of the worker the router
    means ("" for any); another one answers 410. `attempt` counts re-plans; a lower one is 410 too.
    The first call of a plan says how urgent it is: higher `priority` first, the first token wanted
    `deadline_s` seconds after the call arrives (None: no wish). Which of them counts is the worker's
    setting.
    """

    plan_id: str
    tokens: bytes
    steps: tuple[StepCall, ...]
    attempt: int = 0
    incarnation: str = ""
    salt: bytes = b""
    priority: float = 0.0
    deadline_s: Annotated[float, Meta(ge=0)] | None = None

    @property
    def key(self) -> str:
        return f"{self.plan_id}/{self.attempt}"


class StepReport(Struct, frozen=True):
    """How one step went. Times are unix seconds on the worker's clock; counts are tokens."""

    step: str
    state: Literal["running", "done"]
    started_s: float
    ended_s: float = 0.0
    matched: int = 0  # found in the worker's prefix cache
    computed: int = 0
    received: int = 0
    sent: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    generated: int = 0


class Finish(Struct, frozen=True):
    """The end of a generation. `cached_tokens` are prompt tokens this worker did not compute."""

    reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class Problem(Struct, frozen=True):
    """An error as data, between processes; `kind` is a RequestError's."""

    kind: str
    status: int
    detail: str
    retryable: bool
    step: str = ""
    param: str | None = None
    retry_after_s: float | None = None

    @classmethod
    def of(cls, error: RequestError, step: str = "") -> "Problem":
        return cls(
            kind=error.kind,
            status=error.status,
            detail=error.detail,
            retryable=error.retryable,
            step=step,
            param=error.param,
            retry_after_s=error.retry_after_s,
        )

    def error(self) -> RequestError:
        cls = BY_KIND.get(self.kind, EngineFailure)
        return cls(self.detail, param=self.param, retry_after_s=self.retry_after_s)


class FrameKind(IntEnum):
    TOKENS = 1
    STEP = 2
    FINISH = 3
    PROBLEM = 4


class Frame(Struct, frozen=True):
    kind: FrameKind
    tokens: bytes = b""  # int32 little endian
    payload: bytes = b""

    @property
    def num_tokens(self) -> int:
        return len(self.tokens) // 4


_HEADER = struct.Struct("<IBxH")
_AFTER_LENGTH = _HEADER.size - 4
MAX_FRAME_BYTES = 1 << 20


def encode_frame(kind: FrameKind, payload: bytes = b"", tokens: bytes = b"") -> bytes:
    length = _AFTER_LENGTH + len(tokens) + len(payload)
    return _HEADER.pack(length, kind, len(tokens) // 4) + tokens + payload


_KINDS = {int(kind): kind for kind in FrameKind}


def _kind(number: int) -> FrameKind:
    try:
        return _KINDS[number]
    except KeyError:
        raise ValueError(f"a frame of kind {number} is unknown") from None


class FrameDecoder:
    """Splits a byte stream into whole frames; keeps what is not whole yet."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yields every frame completed by `data`; raises ValueError on what is no frame."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        begin, available = 0, len(data)
        while available - begin >= _HEADER.size:
            length, kind, num_tokens = _HEADER.unpack_from(data, begin)
            if not _AFTER_LENGTH + 4 * num_tokens <= length <= MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {length} bytes with {num_tokens} tokens is malformed")
            end = begin + 4 + length
            if available < end:
                break
            text = begin + _HEADER.size + 4 * num_tokens
            yield Frame(_kind(kind), data[begin + _HEADER.size : text], data[text:end])
            begin = end
        self._rest = data[begin:]

    @property
    def pending(self) -> int:
        """Bytes of an unfinished frame: not 0 at the stream's end means it was cut off."""
        return len(self._rest)


encode = msgspec.msgpack.Encoder().encode
decode_plan_call = msgspec.msgpack.Decoder(PlanCall).decode
decode_step_report = msgspec.msgpack.Decoder(StepReport).decode
decode_finish = msgspec.msgpack.Decoder(Finish).decode
decode_problem = msgspec.msgpack.Decoder(Problem).decode


def pack_tokens(tokens: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(tokens)}i", *tokens)


def unpack_tokens(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(data) // 4}i", data)
