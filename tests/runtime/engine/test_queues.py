"""Who is served before whom, and how long anyone can be made to wait."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.events import Generated
from mserve.runtime.engine.fake_runner import FakeWorker
from mserve.runtime.engine.queues import RankedQueue, rank_of
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.errors import Unprocessable
from mserve.runtime.messages import PlanCall, Sampling, StartGenerateCall, pack_tokens


class Traffic:
    """A worker that serves one sequence at a time, two steps each. Its clock counts steps."""

    def __init__(self, **limits: Any) -> None:
        config = EngineConfig(num_pages=64, page_size=4, max_running=1)
        self.worker = FakeWorker(replace(config, **limits))
        self.count = 0

    def arrive(self, name: str, **urgency: Any) -> None:
        self.count += 1
        tokens = pack_tokens([self.count % 200, self.count // 200, 7])
        start = StartGenerateCall("g", 0, Sampling(max_tokens=2))
        self.worker.engine.submit(PlanCall(name, tokens, (start,), **urgency), self.worker.now)

    def order(self) -> list[str]:
        """Who had the first token, in order."""
        self.worker.run()
        events = (event for event in self.worker.events if isinstance(event, Generated))
        return list(dict.fromkeys(event.key.removesuffix("/0") for event in events))


def test_first_come_first_served_is_the_default() -> None:
    traffic = Traffic()
    traffic.arrive("a")
    traffic.arrive("b", priority=5.0, deadline_s=0.0)
    traffic.arrive("c", priority=9.0)
    assert traffic.order() == ["a", "b", "c"]


def test_the_earliest_deadline_comes_first() -> None:
    traffic = Traffic(queue="deadline", default_deadline_s=20.0)
    traffic.arrive("patient", deadline_s=60.0)
    traffic.arrive("default")
    traffic.arrive("urgent", deadline_s=1.0)
    traffic.arrive("second", deadline_s=1.0)
    assert traffic.order() == ["urgent", "second", "default", "patient"]


def test_the_highest_priority_comes_first_and_equals_by_arrival() -> None:
    traffic = Traffic(queue="priority")
    for name, priority in (("low", -1.0), ("a", 0.0), ("high", 2.0), ("b", 0.0)):
        traffic.arrive(name, priority=priority)
    assert traffic.order() == ["high", "a", "b", "low"]


@pytest.mark.parametrize(
    ("limits", "patient", "urgent", "bound"),
    [
        ({"queue": "deadline"}, {"deadline_s": 12.0}, {"deadline_s": 0.0}, 12),
        ({"queue": "deadline", "default_deadline_s": 9.0}, {}, {"deadline_s": 1.0}, 8),
        ({"queue": "priority", "priority_step_s": 5.0}, {}, {"priority": 2.0}, 10),
    ],
)
def test_a_stream_of_urgent_requests_starves_nobody(
    limits: dict[str, Any], patient: dict[str, float], urgent: dict[str, float], bound: int
) -> None:
    """One arrives in every step and takes two: the queue of the urgent ones grows for ever."""
    traffic = Traffic(**limits)
    traffic.arrive("patient", **patient)
    for step in range(40):
        traffic.arrive(f"urgent {step}", **urgent)
        traffic.worker.step()
    overtook = traffic.order()
    overtook = overtook[: overtook.index("patient")]
    assert 0 < len(overtook) <= bound + 1
    assert all(int(name.split()[1]) <= bound for name in overtook)


def test_the_chunks_of_the_urgent_come_first() -> None:
    traffic = Traffic(queue="priority", max_running=4, max_batch_tokens=6, chunk_tokens=4)
    start = StartGenerateCall("g", 0, Sampling(max_tokens=2))
    engine = traffic.worker.engine
    engine.submit(PlanCall("a", pack_tokens([1] * 16), (start,)), 0.0)
    traffic.worker.step()
    engine.submit(PlanCall("b", pack_tokens([2] * 20), (start,), priority=3.0), 1.0)
    assert traffic.order() == ["b", "a"]


def test_who_is_not_urgent_gives_way_when_memory_runs_out() -> None:
    traffic = Traffic(queue="priority", max_running=4, num_pages=8, decode_headroom=0)
    start = StartGenerateCall("g", 0, Sampling(max_tokens=16))
    engine = traffic.worker.engine
    engine.submit(PlanCall("old", pack_tokens([1] * 8), (start,)), 0.0)
    engine.submit(PlanCall("urgent", pack_tokens([2] * 8), (start,), priority=3.0), 0.0)
    preempted = set()
    while traffic.worker.step() is not None:
        live = (engine.find(key) for key in ("old/0", "urgent/0"))
        waiting = (s for s in live if s is not None and s.started and not s.pages)
        preempted |= {sequence.key for sequence in waiting}
    assert preempted == {"old/0"}


def test_urgency_that_is_no_number_is_refused() -> None:
    traffic = Traffic()
    for urgency in ({"priority": math.nan}, {"priority": math.inf}, {"deadline_s": math.inf}):
        with pytest.raises(Unprocessable):
            traffic.arrive("a", **urgency)
    assert traffic.worker.engine.is_idle


@given(
    urgencies=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=20),
    queue=st.sampled_from(["fcfs", "deadline", "priority"]),
    removed=st.sets(st.integers(0, 19)),
)
def test_a_queue_is_sorted_and_anyone_may_leave_it(
    urgencies: list[tuple[int, int]], queue: Any, removed: set[int]
) -> None:
    rank = rank_of(EngineConfig(num_pages=1, queue=queue))
    waiting = RankedQueue(rank)
    sequences = []
    for order, (priority, deadline) in enumerate(urgencies):
        sequence = Sequence(f"p{order}", [], 0, priority=priority, deadline_s=deadline, order=order)  # type: ignore[arg-type]
        sequences.append(sequence)
        waiting.add(sequence)
    for index in removed & set(range(len(sequences))):
        waiting.remove(sequences[index])
        waiting.remove(sequences[index])
    left = [s for index, s in enumerate(sequences) if index not in removed]
    assert list(waiting) == sorted(left, key=rank)
    assert waiting.first() is (min(left, key=rank) if left else None)
    assert len(waiting) == len(left)
