"""Thousands of plans that end at any moment, in any order, on some of their workers first: nothing is left."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from mserve.runtime.worker import ipc

AT_ONCE = 40


@dataclass
class Plan:
    """One under way: whom it still has to be cancelled at, and in how many turns."""

    key: str
    turns_left: int
    workers: list[Any] = field(default_factory=list)


class Traffic:
    """Makes plans of every shape over workers a, b and c, and ends each after some turns."""

    def __init__(self, cluster: Any, calls: Any, seed: int) -> None:
        self._cluster = cluster
        self._calls = calls
        self._rng = random.Random(seed)
        self.workers = [cluster.add(name, num_pages=48) for name in "abc"]
        self.open: list[Plan] = []
        self.num_started = 0

    def start(self) -> None:
        self.num_started += 1
        name, rng = f"p{self.num_started}", self._rng
        begin = rng.randrange(40)
        prompt = [(begin + i * i) % 89 for i in range(rng.randrange(3, 48))]
        workers = rng.sample(self.workers, 3)
        shape: Callable[..., list[tuple[Any, tuple[Any, ...]]]]
        shape = rng.choice((self._whole, self._split, self._pipeline, self._copy))
        parts = shape(name, len(prompt), *workers)
        rng.shuffle(parts)
        plan = Plan(f"{name}/0", rng.randrange(14))
        for worker, steps in parts:
            if rng.random() < 0.95:  # sometimes one never hears of it
                worker.submit(self._calls.of(name, prompt, *steps), True, self._cluster.now)
                plan.workers.append(worker)
        rng.shuffle(plan.workers)
        self.open.append(plan)

    def turn(self) -> None:
        """Everyone takes a step; plans whose time has come lose one worker after the other."""
        self._cluster.turn()
        for plan in self.open:
            plan.turns_left -= 1
            if plan.turns_left < 0 and plan.workers:
                plan.workers.pop().service.cancel(plan.key, self._cluster.now)
        self.open = [plan for plan in self.open if plan.workers]

    def _whole(self, name: str, n: int, a: Any, b: Any, c: Any) -> Any:
        return [(a, (self._calls.generate("g", 0, 6),))]

    def _split(self, name: str, n: int, a: Any, b: Any, c: Any) -> Any:
        cut, ticket = self._rng.randrange(1, n), f"{name}.t"
        receive = self._calls.prep_recv("r", 0, cut, ticket)
        return [
            (a, (self._calls.remote_send("s", 0, cut, (b.receiver(ticket),)),)),
            (b, (receive, self._calls.generate("g", cut, 6, ticket))),
        ]

    def _pipeline(self, name: str, n: int, a: Any, b: Any, c: Any) -> Any:
        """[0, x) on a, [x, y) on b, the rest on c, which gets both parts."""
        make, (x, y) = self._calls, sorted(self._rng.sample(range(1, n), 2))
        at_b, first, second = (f"{name}.{index}" for index in range(3))
        to_both = (b.receiver(at_b), c.receiver(first))
        return [
            (a, (make.remote_send("s1", 0, x, to_both),)),
            (
                b,
                (
                    make.prep_recv("r1", 0, x, at_b),
                    make.remote_send("s2", x, y, (c.receiver(second),), (at_b,)),
                ),
            ),
            (
                c,
                (
                    make.prep_recv("r2", 0, x, first),
                    make.prep_recv("r3", x, y, second),
                    make.generate("g", y, 6, first, second),
                ),
            ),
        ]

    def _copy(self, name: str, n: int, a: Any, b: Any, c: Any) -> Any:
        """The same range to two workers, which both answer."""
        make, cut = self._calls, self._rng.randrange(1, n)
        tickets = [f"{name}.b", f"{name}.c"]
        to_both = (b.receiver(tickets[0]), c.receiver(tickets[1]))
        receiving = [
            (worker, (make.prep_recv("r", 0, cut, t), make.generate("g", cut, 4, t)))
            for worker, t in zip((b, c), tickets, strict=True)
        ]
        return [(a, (make.remote_send("s", 0, cut, to_both),)), *receiving]


@pytest.mark.parametrize("num_plans", [1_000, pytest.param(10_000, marks=pytest.mark.chaos)])
def test_cancels_leave_nothing(cluster: Any, calls: Any, num_plans: int) -> None:
    traffic = Traffic(cluster, calls, seed=11)
    while traffic.num_started < num_plans or traffic.open:
        while len(traffic.open) < AT_ONCE and traffic.num_started < num_plans:
            traffic.start()
        traffic.turn()
        if traffic.num_started % 200 == 0:
            for worker in traffic.workers:
                worker.engine.check_integrity()
    cluster.now += 60  # what nobody claimed is refused
    cluster.run()
    cluster.check_clean()
    events = [event for worker in traffic.workers for event in worker.events]
    num_tokens = sum(isinstance(event, ipc.Token) for event in events)
    num_received = sum(isinstance(e, ipc.Stepped) and e.report.received > 0 for e in events)
    assert num_tokens > num_plans / 2  # they were under way, not only announced
    assert num_received > num_plans / 20
