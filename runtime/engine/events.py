"""What the engine reports, in order, through `Engine.drain`. Data only, and tuples: every token
makes one.

Whoever drives the engine turns these into frames for the router, grants for senders and block
events for the prefix index.
"""

from typing import NamedTuple

from mserve.runtime.engine.sequence import FinishReason
from mserve.runtime.errors import RequestError
from mserve.runtime.messages import Logprobs


class Reserved(NamedTuple):
    """Its pages are there: transfers may write [max(begin, matched), end) of what it receives.

    Once per sequence. A receive opened later than this may be granted at once.
    """

    key: str
    matched: int


class StepStarted(NamedTuple):
    """The sequence of this remote_send or start_generate step has its pages, of which the cache had
    filled `matched` tokens of the step's range."""

    key: str
    step: str
    matched: int = 0


class StepComputed(NamedTuple):
    """All KV of a remote_send's range is there: `computed` tokens here, `reused` from elsewhere."""

    key: str
    step: str
    computed: int
    reused: int


class Generated(NamedTuple):
    """A new token; the counts are those of the answer so far.

    In simulation `token` is 0 and stands for `repeated` tokens.
    """

    key: str
    token: int
    finished: FinishReason | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    repeated: int = 1
    logprobs: Logprobs | None = None


class SequenceDone(NamedTuple):
    """Everything asked for under this key is done and its pages are given back. Tokens."""

    key: str
    matched: int
    received: int
    computed: int
    generated: int


class SequenceFailed(NamedTuple):
    key: str
    error: RequestError


class BlocksChanged(NamedTuple):
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
