"""What the engine reports, in order, through `Engine.drain`. Data only.

Whoever drives the engine turns these into frames for the router, grants for senders and block
events for the prefix index.
"""

from dataclasses import dataclass

from mserve.runtime.engine.sequence import FinishReason
from mserve.runtime.errors import RequestError
from mserve.runtime.messages import Logprobs


@dataclass(frozen=True, slots=True)
class Reserved:
    """Its pages are there: transfers may write [max(begin, matched), end) of what it receives.

    Once per sequence. A receive opened later than this may be granted at once.
    """

    key: str
    matched: int


@dataclass(frozen=True, slots=True)
class StepStarted:
    """The sequence of this remote_send or start_generate step has its pages, of which the cache had
    filled `matched` tokens of the step's range."""

    key: str
    step: str
    matched: int = 0


@dataclass(frozen=True, slots=True)
class StepComputed:
    """All KV of a remote_send's range is there: `computed` tokens here, `reused` from elsewhere."""

    key: str
    step: str
    computed: int
    reused: int


@dataclass(frozen=True, slots=True)
class Generated:
    """A new token; the counts are those of the answer so far.

    In simulation `token` is 0 and stands for `count` tokens.
    """

    key: str
    token: int
    finished: FinishReason | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    count: int = 1
    logprobs: Logprobs | None = None


@dataclass(frozen=True, slots=True)
class SequenceDone:
    """Everything asked for under this key is done and its pages are given back. Tokens."""

    key: str
    matched: int
    received: int
    computed: int
    generated: int


@dataclass(frozen=True, slots=True)
class SequenceFailed:
    key: str
    error: RequestError


@dataclass(frozen=True, slots=True)
class BlocksChanged:
    """Net change of the prefix cache since the last one: no key is in both."""

    evicted: tuple[int, ...]
    stored: tuple[int, ...]


EngineEvent = (
    Reserved
    | StepStarted
    | StepComputed
    | Generated
    | SequenceDone
    | SequenceFailed
    | BlocksChanged
)
