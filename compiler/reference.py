"""A cluster that stands still: Observations from given values, for tests in the language and views.

Workers are idle and empty and share the named reference cost profile unless a value is given. Knows
neither the language's syntax (givens.py) nor the runtime's measured profiles.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mserve.compiler.observe import WORKER_OBSERVATIONS
from mserve.compiler.plan import WorkerName
from mserve.dsl.builtins import UNGIVEN


@dataclass(frozen=True, slots=True)
class ReferenceProfile:
    """Times of one worker, in seconds; round numbers of the size an 8B model has on one H100."""

    name: str = "reference-8b"
    prefill_base_s: float = 0.010
    prefill_token_s: float = 50e-6  # 20,000 tokens a second
    prefill_pair_s: float = 1.25e-9  # per (query, key) pair: the quadratic part of attention
    decode_token_s: float = 0.010
    transfer_base_s: float = 0.001
    transfer_token_s: float = 131_072 / 25e9  # its KV at 25 GB/s
    kv_token_bytes: int = 131_072  # 32 layers, keys and values, 8 heads of 128, 2 bytes each
    kv_tokens: int = 400_000

    def prefill_time(self, num_tokens: float, num_before: float) -> float:
        if num_tokens <= 0:
            return 0.0
        pairs = num_tokens * (num_before + num_tokens / 2)
        return self.prefill_base_s + self.prefill_token_s * num_tokens + self.prefill_pair_s * pairs

    def transfer_time(self, num_tokens: float) -> float:
        if num_tokens <= 0:
            return 0.0
        return self.transfer_base_s + self.transfer_token_s * num_tokens


Fact = tuple[str, tuple[object, ...]]  # ("load", ("decode-0",)), ("tenant", ())


@dataclass(frozen=True, slots=True)
class ReferenceCluster:
    """Implements observe.Observations. `facts` are the given values; everything else is a default:
    the prompt and the answer's limit of UNGIVEN, workers idle and empty."""

    pools: Mapping[str, tuple[WorkerName, ...]]
    facts: Mapping[Fact, object] = field(default_factory=dict)
    profile: ReferenceProfile = ReferenceProfile()
    seed: int = 0

    @property
    def num_tokens(self) -> int:
        return int(self._number("tokens", default=UNGIVEN["tokens"]))

    @property
    def num_answered(self) -> int:
        return 0

    @property
    def max_tokens(self) -> int:
        return int(self._number("max_tokens", default=UNGIVEN["max_tokens"]))

    def workers(self, pool: str) -> tuple[WorkerName, ...]:
        return self.pools[pool]

    def request(self, name: str) -> float | str:
        if name == "expected_output":
            return self._number(name, default=self.max_tokens)
        default = 0.0 if name == "priority" else ""
        value = self.facts.get((name, ()), default)
        return value if isinstance(value, str) else float(str(value))

    def prompt_key(self, begin: int, end: int) -> int:
        return begin << 32 | end

    def cached(self, worker: WorkerName) -> int:
        return min(self.num_tokens, int(self._number("cached", worker)))

    def worker(self, name: str, worker: WorkerName) -> float:
        assert name in WORKER_OBSERVATIONS, f"'{name}' is no observation of a worker"
        return self._number(name, worker, default=self._worker_default(name, worker))

    def _worker_default(self, name: str, worker: WorkerName) -> float:
        """`load` is all prefill unless the backlog is given; memory is what KV leaves free."""
        if name == "prefill_backlog":
            return self._number("load", worker)
        if name == "kv_free":
            return self.profile.kv_tokens * (1 - self._number("kv_used", worker))
        return 1.0 if name == "wait_growth" else 0.0

    def prefill_time(self, num_tokens: float, worker: WorkerName) -> float:
        before = max(0.0, self.num_tokens - num_tokens)
        default = self.profile.prefill_time(num_tokens, before)
        return self._number("prefill_time", num_tokens, worker, default=default)

    def decode_time(self, num_tokens: float, worker: WorkerName) -> float:
        default = max(0.0, num_tokens) * self.profile.decode_token_s
        return self._number("decode_time", num_tokens, worker, default=default)

    def transfer_time(self, num_tokens: float, source: WorkerName, target: WorkerName) -> float:
        default = self.profile.transfer_time(num_tokens)
        return self._number("transfer_time", num_tokens, source, target, default=default)

    def evict_time(self, num_tokens: float, worker: WorkerName) -> float:
        return self._number("evict_time", num_tokens, worker)

    def tie_break(self, worker: WorkerName) -> tuple[float, float]:
        return (self._number("running", worker) + self._number("queued", worker), 0.0)

    def turn(self, place: int) -> int:
        return 0

    def _number(self, name: str, *args: object, default: float = 0.0) -> float:
        value = self.facts.get((name, args), default)
        assert isinstance(value, (int, float)), f"'{name}' is a number"
        return value
