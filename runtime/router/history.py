"""What was sent and what came of it in the last minutes: the windowed observations.

`recent` is Preble's L (arXiv 2407.00023, section 3.2) over the work sent within the window; the
others feed `hit_rate`, `decode_share`, `wait_growth` and `expected_output`. Bounded: a window is
a ring of buckets, whatever the rate.
"""

from collections import deque
from dataclasses import dataclass, field

from mserve.compiler.plan import WorkerName
from mserve.runtime.clock import Clock
from mserve.runtime.router.reservations import Work

WINDOW_S = 180.0
NUM_BUCKETS = 36


class Window:
    """Sum and count of values of the last `span_s` seconds, to within one bucket."""

    __slots__ = ("_bucket_s", "_buckets", "_num_buckets", "count", "total")

    def __init__(self, span_s: float = WINDOW_S, num_buckets: int = NUM_BUCKETS) -> None:
        self._bucket_s = span_s / num_buckets
        self._num_buckets = num_buckets
        self._buckets: deque[list[float]] = deque()  # [bucket number, total, count], oldest first
        self.total = 0.0
        self.count = 0

    def add(self, now: float, value: float) -> None:
        self.forget(now)
        number = now // self._bucket_s
        if not self._buckets or self._buckets[-1][0] < number:
            self._buckets.append([number, 0.0, 0])
        bucket = self._buckets[-1]
        bucket[1] += value
        bucket[2] += 1
        self.total += value
        self.count += 1

    def forget(self, now: float) -> "Window":
        """Drops what is too old; returns itself."""
        oldest = now // self._bucket_s - self._num_buckets
        while self._buckets and self._buckets[0][0] <= oldest:
            _, total, count = self._buckets.popleft()
            self.total -= total
            self.count -= int(count)
        if not self._buckets:
            self.total = 0.0  # no rounding error outlives its values
        return self

    def mean(self, default: float = 0.0) -> float:
        return self.total / self.count if self.count else default

    def growth(self, now: float) -> float:
        """Mean of the later half of the window over that of the earlier; 1 where one is empty."""
        middle = now // self._bucket_s - self._num_buckets / 2
        halves = [[0.0, 0.0], [0.0, 0.0]]
        for number, total, count in self._buckets:
            half = halves[number > middle]
            half[0] += total
            half[1] += count
        (early, num_early), (late, num_late) = halves
        if not num_early or not num_late or not early:
            return 1.0
        return (late / num_late) / (early / num_early)


@dataclass(slots=True)
class WorkerHistory:
    prefill_s: Window = field(default_factory=Window)
    decode_s: Window = field(default_factory=Window)
    waits_s: Window = field(default_factory=Window)
    prompt_tokens: Window = field(default_factory=Window)
    cached_tokens: Window = field(default_factory=Window)


class History:
    """Owns the windows of all workers and of the strategy as a whole."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._workers: dict[WorkerName, WorkerHistory] = {}
        self._outputs = Window()

    # --- what happens ---

    def sent(self, work: Work) -> None:
        now, worker = self._clock.now(), self._of(work.worker)
        worker.prefill_s.add(now, work.prefill_s)
        worker.decode_s.add(now, work.decode_s)

    def waited(self, name: WorkerName, wait_s: float) -> None:
        """A step stood in the worker's queue for `wait_s`."""
        self._of(name).waits_s.add(self._clock.now(), wait_s)

    def answered(
        self, name: WorkerName, prompt_tokens: int, cached_tokens: int, num_output: int
    ) -> None:
        now, worker = self._clock.now(), self._of(name)
        worker.prompt_tokens.add(now, prompt_tokens)
        worker.cached_tokens.add(now, cached_tokens)
        self._outputs.add(now, num_output)

    # --- what can be observed ---

    def recent_s(self, name: WorkerName) -> float:
        now, worker = self._clock.now(), self._of(name)
        return worker.prefill_s.forget(now).total + worker.decode_s.forget(now).total

    def expected_output(self, default: float) -> float:
        return self._outputs.forget(self._clock.now()).mean(default)

    def hit_rate(self, name: WorkerName) -> float:
        now, worker = self._clock.now(), self._of(name)
        prompts = worker.prompt_tokens.forget(now).total
        return worker.cached_tokens.forget(now).total / prompts if prompts else 0.0

    def decode_share(self, name: WorkerName) -> float:
        total = self.recent_s(name)
        return self._of(name).decode_s.total / total if total else 0.0

    def wait_growth(self, name: WorkerName) -> float:
        now = self._clock.now()
        return self._of(name).waits_s.forget(now).growth(now)

    def _of(self, name: WorkerName) -> WorkerHistory:
        worker = self._workers.get(name)
        if worker is None:
            worker = self._workers[name] = WorkerHistory()
        return worker
