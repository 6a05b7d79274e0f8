"""A streamed answer that keeps when each of its tokens came, for those who time steps. Knows no request."""

import asyncio
from collections.abc import Mapping

from mserve.runtime.traffic.answers import ROUTE_HEADER, StreamedAnswer


class TimedAnswer(StreamedAnswer):
    """Keeps when every piece came, and the id of its plan."""

    def __init__(self) -> None:
        super().__init__()
        self.times_s: list[float] = []
        self.begun = asyncio.Event()
        self.plan_id = ""

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        super().begin(status, headers)
        self.plan_id = headers.get(ROUTE_HEADER, "").partition(";")[0].strip()

    def _piece(self, now_s: float) -> None:
        super()._piece(now_s)
        self.times_s.append(now_s)
        self.begun.set()

    @property
    def tokens_each(self) -> float:
        """Of a piece."""
        return self.num_output / self.num_pieces

    @property
    def ending_s(self) -> float:
        """When its last token came."""
        assert self.last_s is not None, "an answer that did not fail has tokens"
        return self.last_s

    def pause_before(self, at_s: float) -> float | None:
        """Of the token nearest to that time, the pause before it; None if it has none."""
        nearest = min(range(len(self.times_s)), key=lambda i: abs(self.times_s[i] - at_s))
        if nearest == 0 or self.tokens_each != 1 or not self.times_s[0] < at_s < self.ending_s:
            return None
        return self.times_s[nearest] - self.times_s[nearest - 1]

    def steps_within(self, begin_s: float, end_s: float) -> list[float]:
        """When tokens came in that time."""
        return [at_s for at_s in self.times_s if begin_s <= at_s <= end_s]
