"""What a strategy may observe, and what the runtime may ask of a compiled strategy, as Protocols.

The runtime implements `Observations` over one snapshot of the cluster (router/placement.py); the
compiler's closures call it. Times are seconds, lengths tokens, ratios 0..1.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mserve.compiler.plan import Decision, LimitsSpec, ParamSpec, PoolSpec, SloSpec, WorkerName

WORKER_OBSERVATIONS = frozenset(
    {
        "load",
        "recent",
        "prefill_backlog",
        "queued",
        "running",
        "kv_free",
        "kv_used",
        "hit_rate",
        "decode_share",
        "wait_growth",
    }
)
"""Names that `Observations.worker` must know."""

REQUEST_OBSERVATIONS = frozenset({"expected_output", "priority", "tenant", "model", "session"})
"""Names that `Observations.request` must know, beside `header:x-name` (lower case)."""

TIMES = frozenset({"prefill_time", "decode_time", "transfer_time", "evict_time"})
"""Predicted times: methods of `Observations`. Below one token they are 0."""


class Observations(Protocol):
    """One request against one snapshot of the cluster. Pure: the same call gives the same answer."""

    @property
    def num_tokens(self) -> int: ...

    @property
    def num_answered(self) -> int:
        """Tokens of the answer that the prompt includes because this is a retry."""
        ...

    @property
    def max_tokens(self) -> int:
        """What may still be generated."""
        ...

    @property
    def seed(self) -> int:
        """Of `random` and `two_choices`: request id and attempt, hashed."""
        ...

    def workers(self, pool: str) -> Sequence[WorkerName]:
        """Live workers of a pool in pool order, without those excluded by a retry."""
        ...

    def request(self, name: str) -> float | str:
        """`expected_output`, `priority`, `tenant`, `model`, `session`, or `header:x-name`."""
        ...

    def prompt_key(self, begin: int, end: int) -> int:
        """A stable hash of the prompt's tokens `[begin, end)`, for `sticky(prompt[:k], pool)`."""
        ...

    def cached(self, worker: WorkerName) -> int:
        """Tokens of the prompt's longest prefix cached on the worker."""
        ...

    def worker(self, name: str, worker: WorkerName) -> float:
        """A per-worker observation by its language name: `load`, `queued`, `kv_free`, ..."""
        ...

    def prefill_time(self, num_tokens: float, worker: WorkerName) -> float:
        """Of the prompt's last `num_tokens`, when the KV of all before them is there."""
        ...

    def decode_time(self, num_tokens: float, worker: WorkerName) -> float: ...

    def transfer_time(self, num_tokens: float, source: WorkerName, target: WorkerName) -> float: ...

    def evict_time(self, num_tokens: float, worker: WorkerName) -> float: ...

    def tie_break(self, worker: WorkerName) -> tuple[float, float]:
        """(requests on the worker, time it was last picked): smaller wins among equals."""
        ...

    def turn(self, place: int) -> int:
        """Round-robin counter of the `next(...)` at this place in the text; advances at dispatch."""
        ...


class Decider(Protocol):
    """What decides: a strategy, or the version of one that is being served."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int:
        """Counts the strategies that were put in each other's place while serving, from 1."""
        ...

    @property
    def pools(self) -> tuple[PoolSpec, ...]: ...

    @property
    def limits(self) -> LimitsSpec: ...

    @property
    def slo(self) -> SloSpec: ...

    @property
    def observes(self) -> frozenset[str]:
        """Observations that it uses: what the router need not fetch else."""
        ...

    def decide(self, view: Observations) -> Decision | None:
        """The plan for one request, or None when no route is possible now."""
        ...


class Periodic(Protocol):
    """An `adapt` block."""

    @property
    def every_s(self) -> float: ...


class Strategy(Decider, Protocol):
    """A compiled strategy as the router sees it: it decides, and its params can be changed."""

    @property
    def params(self) -> Mapping[str, ParamSpec]: ...

    @property
    def values(self) -> Mapping[str, float]:
        """The params' values now, in base units."""
        ...

    @property
    def adaptations(self) -> Sequence[Periodic]: ...

    def set_param(self, name: str, value: float) -> None:
        """From the next decision on. Raises ValueError, a sentence."""
        ...

    def spell(self, name: str, value: float) -> str:
        """A param's value in the language's words, with its unit."""
        ...

    def adapt(self, view: Observations, only: Any = None) -> Mapping[str, float]:
        """What one of `adaptations` makes of the params now; changes nothing."""
        ...
