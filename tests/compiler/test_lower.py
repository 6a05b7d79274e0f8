"""Lowering: every token is computed exactly once where the route says, whatever coincides."""

import itertools
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mserve.compiler.lower import (
    Lowering,
    all_shapes,
    draft_of,
    make_template,
    run_passes,
    segments_between,
    shape_of,
)
from mserve.compiler.passes import Draft, Handoff, Replica
from mserve.compiler.plan import (
    Commit,
    Plan,
    PrepRecv,
    RemoteSend,
    StartGenerate,
)
from mserve.compiler.verify import PlanError, verify_plan


def draft(
    workers: Sequence[str],
    bounds: Sequence[int],
    cached: Mapping[str, int] | None = None,
    handoff: Handoff | None = None,
    replicas: tuple[Replica, ...] = (),
) -> Draft:
    segments = segments_between(workers, bounds)
    return Draft(bounds[-1], workers[-1], segments, cached or {}, handoff, replicas)


def lower(made: Draft) -> Plan:
    return Lowering().plan("s", "r", made)


def brief(plan: Plan) -> list[tuple[object, ...]]:
    """Steps without their names: what they do."""
    return [
        (step.op, step.worker, getattr(step, "begin", None), getattr(step, "end", None))
        for step in plan.steps
    ]


def test_a_split_prompt() -> None:
    assert lower(draft("pd", [3600, 4000])).steps == (
        PrepRecv("s1", "d", 0, 3600, "t1"),
        RemoteSend("s2", "p", 0, 3600, ("t1",)),
        StartGenerate("s3", "d", 3600, ("t1",)),
    )


def test_the_last_token_runs_where_the_answer_is_generated() -> None:
    plan = lower(draft("pd", [4000, 4000]))
    assert brief(plan)[1:] == [
        ("remote_send", "p", 0, 3999),
        ("start_generate", "d", 3999, None),
    ]


def test_one_token_is_the_generating_workers() -> None:
    assert lower(draft("pd", [1, 1])).steps == (StartGenerate("s1", "d", 0),)


def test_neighbours_on_one_worker_are_one_step() -> None:
    assert brief(lower(draft("ppd", [100, 200, 300])))[1] == ("remote_send", "p", 0, 200)
    assert lower(draft("dd", [100, 300])).steps == (StartGenerate("s1", "d", 0),)
    assert lower(draft("dpd", [100, 100, 300])).steps == (StartGenerate("s1", "d", 0),)


def test_a_worker_gets_one_ticket_for_each_part_it_lacks() -> None:
    assert lower(draft("pqd", [100, 200, 300])).steps == (
        PrepRecv("s1", "q", 0, 100, "t1"),
        PrepRecv("s2", "d", 0, 100, "t2"),
        RemoteSend("s3", "p", 0, 100, ("t1", "t2")),
        PrepRecv("s4", "d", 100, 200, "t3"),
        RemoteSend("s5", "q", 100, 200, ("t3",), ("t1",)),
        StartGenerate("s6", "d", 200, ("t2", "t3")),
    )


def test_a_worker_that_comes_back_keeps_what_it_computed() -> None:
    plan = lower(draft("pqpd", [100, 200, 300, 400]))
    again = [s for s in plan.steps if isinstance(s, RemoteSend) and s.begin == 200]
    assert again == [RemoteSend("s8", "p", 200, 300, ("t5",), ("t3",), ("s3",))]


def test_a_range_only_its_own_worker_needs_is_computed_and_kept() -> None:
    plan = lower(draft("pqpd", [100, 200, 300, 400], {"q": 100, "d": 100}))
    assert plan.steps[0] == RemoteSend("s1", "p", 0, 100, ())


def test_what_is_cached_whole_is_neither_sent_nor_computed() -> None:
    assert lower(draft("pd", [3600, 4000], {"d": 3600})).steps == (StartGenerate("s1", "d", 0),)
    partly = lower(draft("pd", [3600, 4000], {"d": 3599}))
    assert brief(partly)[0] == ("prep_recv", "d", 0, 3600)  # the receiver clips
    plan = lower(draft("pqd", [100, 200, 300], {"q": 200}))
    assert plan.steps[3] == RemoteSend("s4", "q", 100, 200, ("t2",))  # needs no prefix


def test_decode_moves_on_with_its_kv() -> None:
    plan = lower(draft("pd", [90, 100], handoff=Handoff("e", 107)))
    assert plan.steps[2:] == (
        StartGenerate("s3", "d", 90, ("t1",), 8),
        PrepRecv("s4", "e", 0, 107, "t2"),
        RemoteSend("s5", "d", 0, 107, ("t2",), (), ("s3.first_token",)),
        StartGenerate("s6", "e", 107, ("t2",), None, ("s3",)),
    )


def test_copies_leave_after_the_first_token() -> None:
    copies = (Replica("x", 100), Replica("y", 100), Replica("d", 100), Replica("z", 50))
    plan = lower(draft("d", [100], {"y": 99, "z": 60}, replicas=copies))
    assert plan.steps == (
        StartGenerate("s1", "d", 0),
        PrepRecv("s2", "x", 0, 100, "t1"),
        PrepRecv("s3", "y", 0, 100, "t2"),
        RemoteSend("s4", "d", 0, 100, ("t1", "t2"), (), ("s1.first_token",)),
        Commit("s5", "x", "t1", ("s4",)),
        Commit("s6", "y", "t2", ("s4",)),
    )


@pytest.mark.parametrize("num_segments", [1, 2, 3, 4])
def test_every_shape_is_lowered_and_verified(num_segments: int) -> None:
    shapes = list(all_shapes(num_segments))
    assert len(set(shapes)) == len(shapes)
    for shape in shapes:
        make_template(shape)  # verifies after every pass


def test_each_shape_is_derived_once() -> None:
    lowering = Lowering()
    first = lowering.plan("s", "r", draft("pd", [3600, 4000]))
    second = lowering.plan("s", "r", draft("xy", [10, 20]))
    assert [step.id for step in first.steps] == [step.id for step in second.steps]
    assert shape_of(draft("pd", [3600, 4000]))[0] == shape_of(draft("xy", [10, 20]))[0]
    assert shape_of(draft("pd", [10, 20], {"d": 10}))[0] != shape_of(draft("pd", [10, 20]))[0]


def test_a_draft_that_does_not_cover_the_prompt_is_our_own_bug() -> None:
    broken = Draft(10, "d", segments_between("pd", [5, 9]), {})
    with pytest.raises(PlanError, match="end at 9, the prompt at 10"):
        list(run_passes(broken))


# --- properties --------------------------------------------------------------------------------


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    """Up to five ranges over four workers, any of them empty or repeated, caches of any length."""
    num_tokens = draw(st.integers(1, 9))
    workers = draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=5))
    bounds = sorted(draw(st.integers(0, num_tokens)) for _ in range(len(workers) - 1))
    cached = {worker: draw(st.integers(0, num_tokens)) for worker in "abcd"}
    handoff = None
    if draw(st.booleans()):
        target = draw(st.sampled_from([w for w in "abcd" if w != workers[-1]]))
        handoff = Handoff(target, num_tokens + draw(st.integers(0, 3)))
    targets = draw(st.lists(st.sampled_from("abcd"), max_size=2, unique=True))
    replicas = tuple(Replica(w, draw(st.integers(1, num_tokens))) for w in targets)
    return draft(workers, [*bounds, num_tokens], cached, handoff, replicas)


class Execution:
    """Runs a plan token by token; the plain reading of what each step means."""

    def __init__(self, plan: Plan, cached: Mapping[str, int]) -> None:
        self.has = {worker: set(range(cached.get(worker, 0))) for worker in "abcd"}
        self.cached = cached
        self.computed: list[tuple[str, int]] = []
        self.arrived: dict[str, set[int]] = {}
        self.tickets = {s.ticket: s for s in plan.steps if isinstance(s, PrepRecv)}
        for step in plan.steps:
            if isinstance(step, RemoteSend):
                self.send(step)
            elif isinstance(step, StartGenerate):
                self.generate(step, plan.num_tokens)
            elif isinstance(step, Commit):
                self.receive(step.worker, (step.ticket,))

    def receive(self, worker: str, tickets: tuple[str, ...]) -> None:
        for name in tickets:
            prep = self.tickets[name]
            wanted = set(range(max(prep.begin, self.cached.get(worker, 0)), prep.end))
            assert self.arrived[name] == wanted
            self.has[worker] |= wanted

    def compute(self, worker: str, begin: int, end: int) -> None:
        for token in range(begin, end):
            if token not in self.has[worker]:
                assert self.has[worker] >= set(range(token)), "a token's prefix is missing"
                self.has[worker].add(token)
                self.computed.append((worker, token))

    def send(self, step: RemoteSend) -> None:
        self.receive(step.worker, step.uses)
        self.compute(step.worker, step.begin, step.end)
        for name in step.to:
            matched = self.cached.get(self.tickets[name].worker, 0)
            sent = set(range(max(step.begin, matched), step.end))
            assert not self.arrived.get(name, set()) & sent, "sent twice"
            self.arrived.setdefault(name, set()).update(sent)

    def generate(self, step: StartGenerate, num_tokens: int) -> None:
        self.receive(step.worker, step.uses)
        self.compute(step.worker, step.begin, num_tokens)
        assert self.has[step.worker] >= set(range(num_tokens))
        if step.max_tokens is not None:
            self.has[step.worker] |= set(range(num_tokens + step.max_tokens - 1))


@settings(max_examples=400, deadline=None)
@given(drafts())
def test_every_token_is_computed_at_most_once_and_by_its_worker(made: Draft) -> None:
    plan = lower(made)
    verify_plan(plan, made.cached)
    execution = Execution(plan, made.cached)
    tokens = [token for _, token in execution.computed]
    assert len(tokens) == len(set(tokens))
    owner = {t: s.worker for s in made.segments for t in range(s.begin, s.end)}
    owner[made.num_tokens - 1] = made.generator
    assert all(owner[token] == worker for worker, token in execution.computed)
    assert list(plan.steps) == [s for s in plan.steps if s.worker in "abcd"]


@settings(max_examples=100, deadline=None)
@given(drafts())
def test_the_template_of_a_shape_is_its_own_plan(made: Draft) -> None:
    """Filling in a template and deriving a plan from the numbers are the same thing."""
    *_, (_, derived) = run_passes(made)
    rounded = {w: _known(made, length) for w, length in made.cached.items()}
    *_, (_, exact) = run_passes(
        Draft(made.num_tokens, made.generator, made.segments, rounded, made.handoff, made.replicas)
    )
    assert lower(made).steps == exact.steps
    assert len(derived.steps) == len(exact.steps)


def _known(made: Draft, length: int) -> int:
    """Rounds a cached length down to a bound of the simplified draft, as shapes do."""
    *_, (_, simplified) = itertools.islice(run_passes(made), 3)
    copies = [c.end for c in (made.handoff, *made.replicas) if c]
    bounds = {0, *(s.end for s in simplified.segments), *copies}
    return max(bound for bound in bounds if bound <= length)


def test_a_shapes_draft_has_that_shape() -> None:
    for shape in all_shapes(3):
        again, _ = shape_of(draft_of(shape))
        assert again == shape
