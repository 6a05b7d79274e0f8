"""Preble's local queue: turns in proportion to cached shares, and a bound for everyone's wait."""

import math
from array import array
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.events import Generated
from mserve.runtime.engine.fake_runner import FakeWorker
from mserve.runtime.engine.hit_ratio import HitRatioQueue
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.messages import PlanCall, Sampling, StartGenerateCall, pack_tokens


def make(queue_shares: dict[str, float]) -> Any:
    return HitRatioQueue(10, lambda sequence: queue_shares[sequence.key])


def sequence(name: str) -> Sequence:
    return Sequence(key=name, tokens=array("i", [1, 2]), num_prompt=2)


def taken(queue: HitRatioQueue, count: int) -> list[str]:
    names = []
    for _ in range(count):
        first = queue.first()
        assert first is not None
        assert queue.first() is first, "nobody overtakes who has the turn"
        queue.remove(first)
        names.append(first.key)
    return names


def test_turns_are_in_proportion() -> None:
    shares = {f"{share}/{n}": share / 10 + 0.05 for share in (9, 4, 0) for n in range(300)}
    queue = make(shares)
    for name in shares:
        queue.add(sequence(name))
    counts = Counter(name.partition("/")[0] for name in taken(queue, 160))
    assert counts == {"9": 100, "4": 50, "0": 10}


def test_a_line_is_first_come_first_served() -> None:
    queue = make(dict.fromkeys("abcd", 0.5))
    members = {name: sequence(name) for name in "abcd"}
    for each in members.values():
        queue.add(each)
    queue.remove(members["b"])
    assert taken(queue, 3) == ["a", "c", "d"]
    assert queue.first() is None
    assert len(queue) == 0


@pytest.mark.parametrize(("share", "line"), [(0.0, 0), (0.63, 6), (0.999, 9), (1.0, 9)])
def test_the_line_of_a_share(share: float, line: int) -> None:
    """Beside one of every line it comes as the later of two in its own."""
    shares = {str(n): n / 10 for n in range(10)} | {"x": share}
    queue = make(shares)
    for name in shares:
        queue.add(sequence(name))
    queue.remove(next(each for each in queue if each.key == str(line)))
    rest = taken(queue, 10)
    queue = make(shares)
    for name in sorted(shares, key=lambda name: name == "x"):
        if name != str(line):
            queue.add(sequence(name))
    assert taken(queue, 10) == rest


@given(st.integers(0, 9), st.integers(1, 5), st.data())
def test_nobody_starves(line: int, place: int, data: st.DataObject) -> None:
    """Whoever arrives meanwhile, the bound of the docstring holds."""
    shares: dict[str, float] = {}
    queue = HitRatioQueue(10, lambda each: shares[each.key])
    for number in range(place):
        shares[f"own {number}"] = line / 10 + 0.05
        queue.add(sequence(f"own {number}"))
    mine = f"own {place - 1}"
    total = sum(range(1, 11))
    bound = place * (math.ceil(total / (line + 1)) + 10)
    for turn in range(bound + 1):
        arrivals = data.draw(st.lists(st.integers(0, 9), max_size=3)) if turn < 12 else range(10)
        for index, other in enumerate(arrivals):
            shares[f"{turn}.{index}"] = other / 10 + 0.05
            queue.add(sequence(f"{turn}.{index}"))
        if taken(queue, 1) == [mine]:
            return
    raise AssertionError(f"overtaken by more than {bound}")


def test_in_the_engine_what_is_cached_goes_first() -> None:
    config = EngineConfig(num_pages=64, page_size=4, max_running=1)
    worker = FakeWorker(replace(config, queue="hit_ratio", queue_groups=4))
    hot = list(range(1, 33))

    def arrive(name: str, tokens: list[int]) -> None:
        start = StartGenerateCall("g", 0, Sampling(max_tokens=2))
        worker.engine.submit(PlanCall(name, pack_tokens(tokens), (start,)), worker.now)

    arrive("warm", hot)
    worker.run()
    arrive("cold", [77] * 32)
    arrive("hit", [*hot, 5])
    worker.run()
    events = [event for event in worker.events if isinstance(event, Generated)]
    order = list(dict.fromkeys(event.key.removesuffix("/0") for event in events))
    assert order == ["warm", "hit", "cold"]
    worker.engine.check_integrity()


def test_who_waits_keeps_the_place_when_its_plan_goes_on() -> None:
    """A further call of the same plan, as for a step that joins later."""
    config = EngineConfig(num_pages=64, page_size=4, max_running=1, queue="hit_ratio")
    worker = FakeWorker(config)

    def arrive(name: str, tokens: list[int], step: str = "g") -> None:
        start = StartGenerateCall(step, 0, Sampling(max_tokens=2))
        worker.engine.submit(PlanCall(name, pack_tokens(tokens), (start,)), worker.now)

    for number in range(4):
        arrive(f"r{number}", [number + 1] * 8)
    waiting = worker.engine.find("r1/0")
    assert waiting is not None
    worker.engine._settle(waiting)
    worker.run()
    events = [event for event in worker.events if isinstance(event, Generated)]
    assert list(dict.fromkeys(event.key for event in events)) == [f"r{n}/0" for n in range(4)]
