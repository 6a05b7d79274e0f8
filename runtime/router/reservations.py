"""Work that this router has sent out and that is not done: seconds and tokens, per worker.

Booked at dispatch, given back piece by piece as reports come, and whatever is left in `finally`.
Counts in whole nanoseconds, so that a worker without plans has exactly nothing. Knows no plans.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from mserve.compiler.plan import WorkerName
from mserve.runtime.clock import Clock

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Work:
    """One plan's estimated work on one worker: times in seconds, sizes in tokens."""

    worker: WorkerName
    prefill_s: float = 0.0
    decode_s: float = 0.0
    decode_tokens: int = 0  # how many tokens `decode_s` is the estimate of
    kv_tokens: int = 0


@dataclass(slots=True)
class WorkerLoad:
    """What is reserved on one worker now."""

    prefill_ns: int = 0
    decode_ns: int = 0
    requests: int = 0
    kv_tokens: int = 0
    picked_s: float = 0.0  # when a plan was last sent there

    @property
    def seconds(self) -> float:
        return (self.prefill_ns + self.decode_ns) / _NS

    @property
    def prefill_s(self) -> float:
        return self.prefill_ns / _NS


class Reservations:
    """Owns the counters of all workers."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._loads: dict[WorkerName, WorkerLoad] = {}

    def of(self, worker: WorkerName) -> WorkerLoad:
        load = self._loads.get(worker)
        if load is None:
            load = self._loads[worker] = WorkerLoad()
        return load

    def loads(self) -> Mapping[WorkerName, WorkerLoad]:
        return self._loads

    @contextmanager
    def reserve(self, works: Sequence[Work]) -> Iterator["Reservation"]:
        """Books `works` while the body runs."""
        now = self._clock.now()
        reservation = Reservation([_Booking(self.of(work.worker), work) for work in works])
        for work in works:
            self.of(work.worker).picked_s = now
        try:
            yield reservation
        finally:
            reservation.release()


class _Booking:
    """What is left of one `Work`."""

    __slots__ = ("decode_ns", "kv_tokens", "load", "prefill_ns", "token_ns", "worker")

    def __init__(self, load: WorkerLoad, work: Work) -> None:
        self.worker = work.worker
        self.load = load
        self.prefill_ns = round(work.prefill_s * _NS)
        self.decode_ns = round(work.decode_s * _NS)
        self.kv_tokens = work.kv_tokens
        self.token_ns = self.decode_ns // work.decode_tokens if work.decode_tokens else 0
        load.requests += 1
        load.prefill_ns += self.prefill_ns
        load.decode_ns += self.decode_ns
        load.kv_tokens += self.kv_tokens

    def give_back_prefill(self) -> None:
        self.load.prefill_ns -= self.prefill_ns
        self.prefill_ns = 0

    def give_back_decode(self, num_tokens: int) -> None:
        done_ns = min(self.decode_ns, num_tokens * self.token_ns)
        self.decode_ns -= done_ns
        self.load.decode_ns -= done_ns

    def release(self) -> None:
        self.load.requests -= 1
        self.load.prefill_ns -= self.prefill_ns
        self.load.decode_ns -= self.decode_ns
        self.load.kv_tokens -= self.kv_tokens


class Reservation:
    """One plan's bookings, at most one per worker."""

    def __init__(self, bookings: Sequence[_Booking]) -> None:
        self._bookings = {booking.worker: booking for booking in bookings}

    def prefilled(self, worker: WorkerName) -> None:
        """The worker has computed its part of the prompt."""
        if worker in self._bookings:
            self._bookings[worker].give_back_prefill()

    def generated(self, worker: WorkerName, num_tokens: int) -> None:
        """The worker has streamed tokens; the first of them says that its prefill is done."""
        booking = self._bookings.get(worker)
        if booking is not None:
            if booking.prefill_ns:
                booking.give_back_prefill()
            booking.give_back_decode(num_tokens)

    def release(self) -> None:
        for booking in self._bookings.values():
            booking.release()
        self._bookings = {}
