"""Decides where a request's work goes: one consistent view of the cluster per decision.

`View` is what a compiled strategy observes (compiler.observe.Observations): the registry's members,
this router's own reservations and history, the prefix index's answer for this prompt. Decisions are
pure; what a decision changes (turns, history) is booked when it is taken. Knows no calls.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from xxhash import xxh3_64_intdigest

from mserve.compiler.observe import (
    REQUEST_OBSERVATIONS,
    TIMES,
    WORKER_OBSERVATIONS,
    Decider,
    Observations,
)
from mserve.compiler.plan import Decision, Plan, PrepRecv, RemoteSend, StartGenerate, WorkerName
from mserve.runtime.blocks import block_keys
from mserve.runtime.cluster.membership import Member, PrefixIndex, WorkerInfo
from mserve.runtime.cost import CostProfile
from mserve.runtime.errors import ConfigError
from mserve.runtime.messages import Render, Sampling
from mserve.runtime.router.fleet import Fleet, Snapshot
from mserve.runtime.router.history import History
from mserve.runtime.router.plans import UNCACHED, Cached
from mserve.runtime.router.requests import GenerationRequest
from mserve.runtime.router.reservations import Reservations, Work


@dataclass(frozen=True, slots=True)
class Query:
    """One attempt at one request: `tokens` is the prompt with what has been streamed already."""

    request: GenerationRequest
    tokens: bytes
    max_tokens: int
    attempt: int = 0
    excluded: Collection[WorkerName] = ()


@dataclass(frozen=True, slots=True)
class Placed:
    """A decision, the estimated work of its plan, and who its workers are."""

    decision: Decision
    works: tuple[Work, ...]
    workers: Mapping[WorkerName, WorkerInfo]
    cached: Cached = UNCACHED


class Placement:
    """Asks the strategy, which must observe nothing but what this router can (`check_observes`)."""

    def __init__(
        self,
        strategy: Decider,
        fleet: Fleet,
        index: PrefixIndex,
        reservations: Reservations,
        history: History,
    ) -> None:
        self._strategy = strategy
        self._fleet = fleet
        self._index = index
        self._reservations = reservations
        self._history = history
        self._turns: Counter[int] = Counter()

    async def place(self, query: Query) -> Placed | None:
        """The plan for one attempt, booked as sent; None while no route is possible."""
        cached = await self._cached(query)
        snapshot = self._fleet.snapshot  # no await from here on: one snapshot per decision
        seen = cached if "cached" in self._strategy.observes else {}
        view = View(query, snapshot, seen, self._reservations, self._history, self._turns)
        decision = self._strategy.decide(view)
        if decision is None:
            return None
        works = estimate(decision.plan, view)
        self._turns.update(decision.turns)
        for work in works:
            self._history.sent(work)
        workers = {work.worker: snapshot.members[work.worker].info for work in works}
        found = Cached(_most(cached, snapshot.members), _most(cached, workers))
        return Placed(decision, works, workers, found)

    def look(self) -> Observations:
        """The cluster now, in the eyes of no request: what `adapt` blocks observe."""
        nobody = GenerationRequest("", b"", Sampling(max_tokens=1), Render())
        query = Query(nobody, b"", 1)
        snapshot = self._fleet.snapshot
        return View(query, snapshot, {}, self._reservations, self._history, self._turns)

    async def _cached(self, query: Query) -> Mapping[WorkerName, int]:
        """Tokens of the prompt's longest cached prefix by worker; counted also where the strategy does
        not look at it. At most all but the last token: its logits are always computed by the generating worker.
        """
        block_tokens = self._fleet.snapshot.block_tokens
        if block_tokens is None:
            return {}
        keys = block_keys(query.tokens, block_tokens, query.request.salt)
        if not keys:
            return {}
        found = await self._index.lookup(keys)
        most = len(query.tokens) // 4 - 1
        return {worker: min(most, blocks * block_tokens) for worker, blocks in found.items()}


def _most(cached: Mapping[WorkerName, int], workers: Iterable[WorkerName]) -> int:
    return max((cached.get(worker, 0) for worker in workers), default=0)


class View:
    """One attempt against one snapshot: implements compiler.observe.Observations."""

    def __init__(
        self,
        query: Query,
        snapshot: Snapshot,
        cached: Mapping[WorkerName, int],
        reservations: Reservations,
        history: History,
        turns: Mapping[int, int],
    ) -> None:
        self.num_tokens = len(query.tokens) // 4
        self.num_answered = self.num_tokens - query.request.num_tokens
        self.max_tokens = query.max_tokens
        self.seed = xxh3_64_intdigest(f"{query.request.id}/{query.attempt}".encode())
        self._query = query
        self._snapshot = snapshot
        self._cached = cached
        self._reservations = reservations
        self._history = history
        self._turns = turns

    def workers(self, pool: str) -> Sequence[WorkerName]:
        names = self._snapshot.pools.get(pool, ())
        if not self._query.excluded:
            return names
        return tuple(name for name in names if name not in self._query.excluded)

    def request(self, name: str) -> float | str:
        if name == "expected_output":
            return self._history.expected_output(default=self.max_tokens)
        return self._query.request.facts.get(name, 0.0 if name == "priority" else "")

    def prompt_key(self, begin: int, end: int) -> int:
        part = self._query.tokens[4 * begin : 4 * end]
        return block_keys(part, len(part) // 4)[0] if part else 0

    def cached(self, worker: WorkerName) -> int:
        return self._cached.get(worker, 0)

    def worker(self, name: str, worker: WorkerName) -> float:
        return _WORKER_OBSERVATIONS[name](self, worker)

    def prefill_time(self, num_tokens: float, worker: WorkerName) -> float:
        num_before = max(0.0, self.num_tokens - num_tokens)
        return self.cost(worker).prefill_time(num_tokens, num_before)

    def decode_time(self, num_tokens: float, worker: WorkerName) -> float:
        batch = self._reservations.of(worker).requests + 1
        return self.cost(worker).decode_time(num_tokens, batch)

    def transfer_time(self, num_tokens: float, source: WorkerName, target: WorkerName) -> float:
        """The slower side's."""
        return max(self.cost(end).transfer_time(num_tokens) for end in (source, target))

    def evict_time(self, num_tokens: float, worker: WorkerName) -> float:
        """Seconds of recomputing that making room for `num_tokens` is expected to cost.

        Preble's M (arXiv 2407.00023, section 3.2) weighs every victim by how often it was used; the
        router does not see victims, so it weighs what must go by the worker's share of hits.
        """
        cached = self._member(worker).stats.kv_cached_tokens
        evicted = min(num_tokens - (self.kv_free(worker) - cached), cached)
        if evicted <= 0:
            return 0.0
        return self._history.hit_rate(worker) * self.cost(worker).prefill_time(evicted)

    def cost(self, worker: WorkerName) -> CostProfile:
        return self._snapshot.costs[worker]

    def tie_break(self, worker: WorkerName) -> tuple[float, float]:
        load = self._reservations.of(worker)
        return (load.requests, load.picked_s)

    def turn(self, place: int) -> int:
        return self._turns.get(place, 0)

    # --- per-worker observations, by their names in the language ---

    def load(self, worker: WorkerName) -> float:
        return self._reservations.of(worker).seconds

    def prefill_backlog(self, worker: WorkerName) -> float:
        return self._reservations.of(worker).prefill_s

    def queued(self, worker: WorkerName) -> float:
        """The last heartbeat's, and what was sent since: requests it cannot have counted yet."""
        stats = self._member(worker).stats
        unseen = self._reservations.of(worker).requests - stats.running - stats.waiting
        return stats.waiting + max(0, unseen)

    def running(self, worker: WorkerName) -> float:
        return self._member(worker).stats.running

    def kv_free(self, worker: WorkerName) -> float:
        """Tokens that no running plan holds; cached ones count as free."""
        stats = self._member(worker).stats
        return max(0, stats.kv_total_tokens - self._kv_used_tokens(worker))

    def kv_used(self, worker: WorkerName) -> float:
        total = self._member(worker).stats.kv_total_tokens
        return min(1.0, self._kv_used_tokens(worker) / total) if total else 0.0

    def recent(self, worker: WorkerName) -> float:
        return self._history.recent_s(worker)

    def hit_rate(self, worker: WorkerName) -> float:
        return self._history.hit_rate(worker)

    def decode_share(self, worker: WorkerName) -> float:
        return self._history.decode_share(worker)

    def wait_growth(self, worker: WorkerName) -> float:
        return self._history.wait_growth(worker)

    def _kv_used_tokens(self, worker: WorkerName) -> int:
        heard = self._member(worker).stats.kv_used_tokens
        return max(heard, self._reservations.of(worker).kv_tokens)

    def _member(self, worker: WorkerName) -> Member:
        return self._snapshot.members[worker]


_WORKER_OBSERVATIONS: Mapping[str, Callable[[View, WorkerName], float]] = {
    "load": View.load,
    "recent": View.recent,
    "prefill_backlog": View.prefill_backlog,
    "queued": View.queued,
    "running": View.running,
    "kv_free": View.kv_free,
    "kv_used": View.kv_used,
    "hit_rate": View.hit_rate,
    "decode_share": View.decode_share,
    "wait_growth": View.wait_growth,
}
_OTHER_OBSERVATIONS = frozenset({"tokens", "max_tokens", "header", "cached", "ttft"})
assert _WORKER_OBSERVATIONS.keys() == WORKER_OBSERVATIONS, "the view and its Protocol differ"


def check_observes(strategy: Decider) -> None:
    """Raises ConfigError for an observation that this router cannot make."""
    known = _WORKER_OBSERVATIONS.keys() | REQUEST_OBSERVATIONS | TIMES | _OTHER_OBSERVATIONS
    unknown = sorted(name for name in strategy.observes if name.partition(":")[0] not in known)
    if unknown:
        names = ", ".join(f"`{name}`" for name in unknown)
        raise ConfigError(
            f"Strategy '{strategy.name}' observes {names}, which this router cannot tell; "
            "use a version of mserve whose router can, or another observation."
        )


def estimate(plan: Plan, view: View) -> tuple[Work, ...]:
    """Each worker's share of a plan: what it is expected to compute, given what it has cached."""
    shares: dict[WorkerName, _Share] = {}
    for step in plan.steps:
        if isinstance(step, PrepRecv | RemoteSend | StartGenerate):
            share = shares.get(step.worker)
            if share is None:
                share = shares[step.worker] = _Share(view, step.worker)
            share.add(step, plan.num_tokens)
    return tuple(share.work() for share in shares.values())


class _Share:
    """Follows one worker through a plan's steps; `[0, held)` is what it has by then."""

    def __init__(self, view: View, worker: WorkerName) -> None:
        self._view = view
        self._worker = worker
        self._held = view.cached(worker)
        self._prefill_s = 0.0
        self._num_output = 0

    def add(self, step: PrepRecv | RemoteSend | StartGenerate, num_tokens: int) -> None:
        if isinstance(step, PrepRecv):
            self._held = max(self._held, min(step.end, num_tokens))
        elif isinstance(step, RemoteSend):
            self._compute(min(step.end, num_tokens), step.begin)
        else:
            self._held = min(self._held, num_tokens - 1)
            self._compute(num_tokens, 0)
            self._num_output = self._output(step.max_tokens)

    def work(self) -> Work:
        return Work(
            self._worker,
            self._prefill_s,
            self._view.decode_time(self._num_output, self._worker),
            self._num_output,
            self._held + self._num_output,
        )

    def _compute(self, end: int, begin: int) -> None:
        begin = max(begin, self._held)
        if begin < end:
            cost = self._view.cost(self._worker)
            self._prefill_s += cost.prefill_time(end - begin, begin)
            self._held = end

    def _output(self, max_tokens: int | None) -> int:
        most = self._view.max_tokens if max_tokens is None else max_tokens
        return max(1, min(most, round(float(self._view.request("expected_output")))))
