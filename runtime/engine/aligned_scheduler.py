"""The scheduler for `batch = aligned`: more sequences are ready to decode than a batch holds, and standby.py
says which of them do.

They are prefilled ahead, as far as memory goes, if that is predicted to pay. When pages run short, who is
not in the batch is parked: its KV goes to host memory, page by page as others need the room, and comes
back when it is chosen. With nothing to gain this is the plain scheduler.
"""

from collections.abc import Collection
from itertools import chain

from mserve.runtime.engine.batching import Batch
from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.kv_cache import KvCache
from mserve.runtime.engine.scheduler import Scheduler
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.engine.standby import Standby

PROMPT_ROWS = 1 / 4  # of a batch, at most, that prompts take from a full one


class AlignedScheduler(Scheduler):
    """Who decodes, and who has lost the pages for it, is the standby's."""

    def __init__(self, config: EngineConfig, cache: KvCache) -> None:
        super().__init__(config, cache)
        self._standby = Standby(config, cache)
        self._receiving: dict[Sequence, None] = {}  # have pages, and others fill them
        self._is_ahead = False  # the step before may still write pages: nobody is parked
        self._must_park = False  # that is what the next step needs
        self._has_parked = False  # since `choose`: another step may see another choice

    def place(self, sequence: Sequence) -> None:
        if self.is_parked(sequence):
            return
        super().place(sequence)
        if sequence.is_stalled and sequence.may_generate:
            self._receiving[sequence] = None

    def remove(self, sequence: Sequence) -> None:
        super().remove(sequence)
        self._standby.remove(sequence)
        self._receiving.pop(sequence, None)

    def is_parked(self, sequence: Sequence) -> bool:
        return sequence in self._standby

    def choose(self, now: float, *, is_ahead: bool) -> None:
        self._is_ahead, self._must_park, self._has_parked = is_ahead, False, False
        running = (self._decoding, self._prefilling, self._receiving)
        queues = (*running, self._waiting, self._waiting_to_receive)
        num_under_way = len(self._standby) + sum(len(queue) for queue in queues)
        self._standby.weigh(chain(self._standby, *queues), num_under_way)
        if not self._standby.aligns:
            self._call_off()
        coming_back = [s for s in self._prefilling if s.num_output]
        self._standby.choose([*self._decoding, *coming_back], now)

    def admit(self) -> list[Sequence]:
        """Those who come back first; the others in another step."""
        admitted = self._bring_back() or super().admit()
        if self._must_park:
            self._refused = None  # not for want of room
        return admitted

    def form(self) -> Batch | None:
        """None, or moves alone, if pages must be taken from someone first, which this step is planned
        too early for."""
        if not self._must_park:
            return super().form()
        moves = self._cache.take_moves()
        return Batch((), (), moves=moves) if moves else None

    def _members(self) -> Collection[Sequence]:
        """If nobody of the batch has pages, the others do meanwhile. Rows that prompts need are taken
        from those who have most of their answer."""
        members = [s for s in self._decoding if self._standby.is_member(s)] or [*self._decoding]
        num_beyond = len(members) + self._num_prompt_rows() - self._config.max_running
        if num_beyond > 0 and self._standby.aligns:
            members.sort(key=lambda sequence: sequence.num_output)
            del members[-num_beyond:]
        return members

    def _num_prompt_rows(self) -> int:
        coming_back = sum(1 for s in self._prefilling if s.num_output)
        most = int(PROMPT_ROWS * self._config.max_running)
        return coming_back + min(most, len(self._prefilling) - coming_back)

    def _repeat(self, decode: list[Sequence]) -> int:
        return 1 if self._has_parked else super()._repeat(decode)

    def _until(self) -> float:
        return self._standby.until

    def _num_slots(self) -> int:
        return super()._num_slots() - len(self._standby) + self._standby.num_ahead

    def _find_room(self, sequence: Sequence) -> bool:
        if not self._standby.aligns:
            return super()._find_room(sequence)
        while self._standby.is_tight() or not super()._find_room(sequence):
            if not self._park(for_newcomer=True):
                return False
        return True

    def _giving_way(self, sequence: Sequence) -> tuple[bool, tuple[float, int]]:
        """Those not in the batch first."""
        return not self._standby.is_member(sequence), self._rank(sequence)

    def _preempt(self, victim: Sequence) -> None:
        if not (self._standby.aligns and victim.num_output):
            super()._preempt(victim)
            return
        self.remove(victim)
        self._standby.park(victim)
        self._has_parked = True

    def _call_off(self) -> None:
        """Who is parked waits as if preempted."""
        for sequence in [*self._standby]:
            self._standby.remove(sequence)
            self.place(sequence)

    def _bring_back(self) -> list[Sequence]:
        """Members that were parked, while memory lasts."""
        back: list[Sequence] = []
        for sequence in self._standby.absent():
            while not self._cache.reserve(sequence, self._reserved_end(sequence)):
                if not self._park():
                    return back
            self._begin(sequence)
            self._standby.has_moved(len(sequence.pages))
            back.append(sequence)
        return back

    def _park(self, *, for_newcomer: bool = False) -> bool:
        """Takes the pages of one who is ready and not in the batch."""
        victim = next(self._standby.victims(self._decoding), None)
        if victim is None or (for_newcomer and not self._standby.has_room_for(victim)):
            return False
        self._must_park = self._is_ahead
        if not self._is_ahead:
            self._preempt(victim)
        return not self._is_ahead
