"""What a worker's HTTP process and its engine process say to each other, and the framing between them.

A frame is a u32 length and a msgpack list of messages: the engine sends all that one step produced
in one frame. Either side's end of the stream is the other's signal to stop.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from mserve.runtime.cluster.membership import BlockEvents, KvLayout, WorkerStats
from mserve.runtime.cost import CostProfile
from mserve.runtime.messages import Logprobs, PlanCall, Problem, StepReport


class EngineConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """What the engine process is started with. Sizes in tokens unless named otherwise."""

    model: str  # a folder
    worker: str
    incarnation: str
    device: str = "cpu"
    dtype: str = "float32"
    gpus: int = 1  # tensor-parallel degree
    first_gpu: int | None = None  # of this machine's, counted round and round; None: the device's
    load: str = "auto"  # the folder's weights; dummy: random ones
    page_size: int = 16
    kv_memory_bytes: int | None = None  # None: a share of a GPU's memory, 256 MiB on a CPU
    gpu_memory_share: float = 0.9  # of what the weights leave free
    host_cache_bytes: int = 0
    prefix_cache: bool = True
    queue: Literal["fcfs", "deadline", "priority", "hit_ratio"] = "fcfs"
    queue_groups: int = 10
    batch: Literal["continuous", "aligned"] = "continuous"
    spread: float = 2.0  # of batch = aligned, as are patience and fill
    patience_s: float = 0.05
    fill: float = 0.8
    max_batch_tokens: int = 2048
    chunk_tokens: int = 512
    max_running: int = 256
    max_sequences: int = 4096
    max_model_len: int | None = None  # None: the model's own
    threads: int = 1
    overlap: bool = False  # plan a step while the one before runs; not with several ranks
    lease_s: float = 10.0
    checksum_kv: bool = False
    cost_cache: str = ""  # a folder; "": costs are measured at each start
    loopback_only: bool = False  # no other machine may reach the transport


# --- HTTP process to engine --------------------------------------------------------------------


class Submit(Struct, frozen=True, tag="submit"):
    """Answered by Accepted or Refused, to this caller only; then events about the plan follow."""

    request: int
    call: PlanCall
    held: bool  # an open HTTP call keeps its tickets alive; otherwise the lease does


class Cancel(Struct, frozen=True, tag="cancel"):
    key: str


class StopGenerating(Struct, frozen=True, tag="stop_generating"):
    """The answer is complete (a stop string): finish as if the model had ended it."""

    key: str


class Renew(Struct, frozen=True, tag="renew"):
    request: int
    tickets: tuple[str, ...]


class ReleaseTickets(Struct, frozen=True, tag="release_tickets"):
    """Ends the plans that hold these tickets."""

    request: int
    tickets: tuple[str, ...]


class Match(Struct, frozen=True, tag="match"):
    request: int
    tokens: bytes
    salt: bytes


class State(Struct, frozen=True, tag="state"):
    request: int


class Resync(Struct, frozen=True, tag="resync"):
    """Ask for all cached block keys, as of one point in the order of block events."""

    request: int


class Greet(Struct, frozen=True, tag="greet"):
    """Connect to these transports now, so that no request has to wait for it."""

    peers: tuple[bytes, ...]


class Drain(Struct, frozen=True, tag="drain"):
    pass


Question = Renew | ReleaseTickets | Match | State | Resync  # answered by Reply or Snapshot
Command = Submit | Cancel | StopGenerating | Greet | Drain | Question


# --- engine to HTTP process --------------------------------------------------------------------


class Ready(Struct, frozen=True, tag="ready"):
    layout: KvLayout
    transport_address: bytes
    page_size: int
    num_pages: int
    max_model_len: int
    cost: CostProfile
    notes: tuple[str, ...] = ()  # for the operator's log


class FailedStart(Struct, frozen=True, tag="failed_start"):
    detail: str


class Stepped(Struct, frozen=True, tag="stepped"):
    key: str
    report: StepReport


class Token(Struct, frozen=True, tag="token"):
    """One generated token. With `finish`, the sequence has ended and `report` is its step's.

    In simulation it stands for `count` tokens.
    """

    key: str
    step: str
    token: int
    finish: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    logprobs: Logprobs | None = None
    report: StepReport | None = None
    count: int = 1


class Failed(Struct, frozen=True, tag="failed"):
    """A plan that was taken has ended on this worker; `problem.step` names the culprit if known."""

    key: str
    problem: Problem


class Accepted(Struct, frozen=True, tag="accepted"):
    request: int


class Refused(Struct, frozen=True, tag="refused"):
    """The engine did not take the call; another call's plan of the same key is not touched."""

    request: int
    problem: Problem


class Reply(Struct, frozen=True, tag="reply"):
    request: int
    body: bytes  # JSON


class Blocks(Struct, frozen=True, tag="blocks"):
    events: BlockEvents


class Snapshot(Struct, frozen=True, tag="snapshot"):
    """All cached block keys, after the events up to `sequence`."""

    request: int
    sequence: int
    blocks: tuple[int, ...]


class Stats(Struct, frozen=True, tag="stats"):
    stats: WorkerStats
    dropped_messages: int = 0
    corrupted_messages: int = 0  # KV whose checksum was wrong


Answer = Accepted | Refused | Reply | Snapshot  # to one request of the HTTP process
Event = Ready | FailedStart | Stepped | Token | Failed | Blocks | Stats | Answer

_LENGTH = struct.Struct("<I")
_encoder = msgspec.msgpack.Encoder()
_commands = msgspec.msgpack.Decoder(list[Command])
_events = msgspec.msgpack.Decoder(list[Event])


def encode_frame(messages: Sequence[Command] | Sequence[Event]) -> bytes:
    body = _encoder.encode(messages)
    return _LENGTH.pack(len(body)) + body


def split_frames(buffer: bytearray) -> Iterator[bytes]:
    """Takes every whole frame's body off the front of `buffer`."""
    begin = 0
    while len(buffer) - begin >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(buffer, begin)
        end = begin + _LENGTH.size + length
        if len(buffer) < end:
            break
        yield bytes(buffer[begin + _LENGTH.size : end])
        begin = end
    del buffer[:begin]


def decode_commands(body: bytes) -> list[Command]:
    return _commands.decode(body)


def decode_events(body: bytes) -> list[Event]:
    return _events.decode(body)
