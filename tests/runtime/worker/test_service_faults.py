"""Wrong calls, bad moments and peers that leave: refused or cleaned up, and nobody else disturbed."""

from typing import Any

import pytest

from mserve.runtime.engine.batching import DeviceLost, StepOutOfMemory
from mserve.runtime.messages import ReleaseCall
from mserve.runtime.transport.ring import StagingSlot
from mserve.runtime.worker.sends import Sends

PROMPT = [(7 * i + i * i) % 89 for i in range(103)]


def split(
    cluster: Any, calls: Any, cut: int, prompt: list[int], plan: str = "p"
) -> tuple[Any, Any]:
    """`compute prompt[:cut] on a; generate on b`, submitted to both."""
    a, b = (cluster.workers.get(n) or cluster.add(n) for n in ("a", "b"))
    ticket = f"{plan}.t1"
    send = calls.remote_send("s2", 0, cut, (b.receiver(ticket),))
    a.submit(calls.of(plan, prompt, send), True, cluster.now)
    steps = (calls.prep_recv("s1", 0, cut, ticket), calls.generate("s3", cut, 8, ticket))
    b.submit(calls.of(plan, prompt, *steps), True, cluster.now)
    return a, b


def refused(cluster: Any, calls: Any, *steps: Any, key: str = "p") -> str:
    """The kind of the problem that a call with these steps on worker b is answered with."""
    b = cluster.workers.get("b") or cluster.add("b")
    before = len(b.problems(f"{key}/0"))
    b.submit(calls.of(key, PROMPT, *steps), True, cluster.now)
    cluster.run()
    return str(b.problems(f"{key}/0")[before].kind)


def test_names_are_checked(cluster: Any, calls: Any) -> None:
    b = cluster.add("b")
    twice = (calls.remote_send("s", 0, 40, ()), calls.generate("s", 40, 4))
    assert refused(cluster, calls, *twice) == "conflict_error"
    long = calls.remote_send("s", 0, 40, (b.receiver("t" * 20_000),))
    assert refused(cluster, calls, long) == "unprocessable_error"
    cluster.check_clean()


def test_a_send_to_oneself_is_refused(cluster: Any, calls: Any) -> None:
    b = cluster.add("b")
    send = calls.remote_send("s", 0, 40, (b.receiver("t1"),))
    assert refused(cluster, calls, send) == "unprocessable_error"


def test_a_ticket_belongs_to_one_plan(cluster: Any, calls: Any) -> None:
    a, b = split(cluster, calls, 90, PROMPT)
    again = (calls.prep_recv("s", 0, 40, "p.t1"), calls.generate("g", 40, 4, "p.t1"))
    assert refused(cluster, calls, *again, key="q") == "conflict_error"
    cluster.run()
    assert b.tokens("p/0") == calls.reference(PROMPT, 8)
    send = calls.remote_send("s2", 0, 40, (b.receiver("t"), b.receiver("t")))
    a.submit(calls.of("q", PROMPT, send), True, cluster.now)
    cluster.run()
    assert [problem.kind for problem in a.problems("q/0")] == ["conflict_error"]
    cluster.check_clean()


def test_a_ticket_that_no_step_uses_is_refused(cluster: Any, calls: Any) -> None:
    steps = (calls.prep_recv("s1", 0, 40, "t1"), calls.generate("s2", 40, 4))
    assert refused(cluster, calls, *steps) == "unprocessable_error"
    cluster.check_clean()


def test_a_layout_that_differs_ends_the_rest_of_the_call_too(cluster: Any, calls: Any) -> None:
    """The Open is there before the call: the first step fails while the others are still to come."""
    a, b, c = cluster.add("a", fingerprint="other"), cluster.add("b"), cluster.add("c")
    send = calls.remote_send("s1", 0, 40, (b.receiver("t1"),))
    a.submit(calls.of("p", PROMPT, send), True, cluster.now)
    for _ in range(5):
        cluster.turn()
    steps = (
        calls.prep_recv("s2", 0, 40, "t1"),
        calls.prep_recv("s3", 40, 50, "t2"),
        calls.remote_send("s4", 50, 80, (c.receiver("t3"),), ("t1", "t2")),
    )
    assert refused(cluster, calls, *steps) == "unprocessable_error"
    cluster.check_clean()


def both_ways(cluster: Any, calls: Any, a: Any, b: Any, sending: str, receiving: str) -> Any:
    """Two plans from a to b, submitted in these orders; returns their prompts."""
    prompts = {"x": PROMPT[::-1], "y": PROMPT}
    for plan in sending:
        send = calls.remote_send("s", 0, 100, (b.receiver(plan),))
        a.submit(calls.of(plan, prompts[plan], send), True, cluster.now)
    for plan in receiving:
        steps = (calls.prep_recv("r", 0, 100, plan), calls.generate("g", 100, 4, plan))
        b.submit(calls.of(plan, prompts[plan], *steps), True, cluster.now)
    return prompts


@pytest.mark.parametrize("sending", ["xy", "yx"])
@pytest.mark.parametrize("receiving", ["xy", "yx"])
def test_plans_do_not_wait_for_each_others_pages(
    cluster: Any, calls: Any, sending: str, receiving: str
) -> None:
    """Room for one plan on either side: no order of calls makes memory wait for memory."""
    a, b = cluster.add("a", num_pages=30), cluster.add("b", num_pages=30)
    prompts = both_ways(cluster, calls, a, b, sending, receiving)
    cluster.run()
    for plan, prompt in prompts.items():
        assert b.tokens(f"{plan}/0") == calls.reference(prompt, 4)
    cluster.check_clean()


def test_a_sender_that_gives_up_frees_a_receiver_that_waits_for_room(
    cluster: Any, calls: Any
) -> None:
    a, b = cluster.add("a"), cluster.add("b", num_pages=30)
    prompts = both_ways(cluster, calls, a, b, "xy", "xy")
    while b.service.state()["tickets"]["x"] == "registered":
        cluster.turn()
    assert b.service.state()["tickets"]["y"] == "registered"
    a.service.cancel("y/0", cluster.now)
    cluster.run()
    assert b.tokens("x/0") == calls.reference(prompts["x"], 4)
    assert [(p.kind, p.retryable) for p in b.problems("y/0")] == [("worker_lost_error", True)]
    cluster.check_clean()


def test_a_receiver_that_takes_nothing_is_given_up(cluster: Any, calls: Any) -> None:
    a, b = split(cluster, calls, 90, PROMPT)
    while not a.service.num_sends or b.service.state()["tickets"]["p.t1"] == "registered":
        cluster.turn()
    b.alive = False  # frozen: its connection stays
    for _ in range(10):
        cluster.turn()
    cluster.now += 61
    cluster.run()
    assert [problem.kind for problem in a.problems("p/0")] == ["worker_lost_error"]
    cluster.check_clean()


def test_an_attempt_stays_overtaken_when_the_later_one_has_ended(cluster: Any, calls: Any) -> None:
    b = cluster.add("b")
    call = calls.of("p", PROMPT, calls.generate("s", 0, 2))
    for attempt in (1, 0):
        b.submit(type(call)("p", call.tokens, call.steps, attempt=attempt), True, cluster.now)
        cluster.run()
    assert b.tokens("p/1") == calls.reference(PROMPT, 2)
    assert [problem.kind for problem in b.problems("p/0")] == ["gone_error"]


def test_a_plan_that_runs_goes_on_while_its_worker_drains(cluster: Any, calls: Any) -> None:
    a, b = cluster.add("a"), cluster.add("b")
    b.submit(calls.of("p", PROMPT, calls.prep_recv("s1", 0, 40, "t1")), False, cluster.now)
    b.service.draining = True
    send = calls.remote_send("s2", 0, 40, (b.receiver("t1"),))
    a.submit(calls.of("p", PROMPT, send), True, cluster.now)
    b.submit(calls.of("p", PROMPT, calls.generate("s3", 40, 4, "t1")), True, cluster.now)
    cluster.run()
    assert b.tokens("p/0") == calls.reference(PROMPT, 4)


def test_the_holders_of_a_plan_learn_of_its_cancel(cluster: Any, calls: Any) -> None:
    b = cluster.add("b")
    b.submit(calls.of("p", PROMPT, calls.generate("s", 0, 90)), True, cluster.now)
    cluster.turn()
    b.service.cancel("p/0", cluster.now)
    b.service.cancel("p/0", cluster.now)
    cluster.run()
    assert [problem.kind for problem in b.problems("p/0")] == ["gone_error"]
    cluster.check_clean()


def test_a_hold_is_not_shortened_by_a_renewal(cluster: Any, calls: Any) -> None:
    b = cluster.add("b")
    steps = (calls.prep_recv("s1", 0, 40, "t1"), calls.generate("s3", 40, 8, "t1"))
    b.submit(calls.of("p", PROMPT, *steps), True, cluster.now)
    assert b.service.renew(("t1",), cluster.now) == 1
    cluster.now += 60
    cluster.run()
    assert not b.problems("p/0")


def test_tickets_of_a_call_that_is_answered_at_once_have_a_lease(cluster: Any, calls: Any) -> None:
    a, b = cluster.add("a"), cluster.add("b")
    b.submit(calls.of("p", PROMPT, calls.prep_recv("s1", 0, 40, "t1")), True, cluster.now)
    send = calls.remote_send("s2", 0, 40, (b.receiver("t1"),))
    a.submit(calls.of("p", PROMPT, send), True, cluster.now)
    cluster.run()
    cluster.now += 11
    cluster.run()
    cluster.check_clean()


def test_a_released_ticket_leaves_the_rest_of_its_plan(cluster: Any, calls: Any) -> None:
    a, b = cluster.add("a"), cluster.add("b")
    steps = (
        calls.prep_recv("s1", 0, 40, "t1"),
        ReleaseCall("s2", "t1"),
        calls.remote_send("s3", 0, 40, (a.receiver("t2"),)),
    )
    b.submit(calls.of("p", PROMPT, *steps), True, cluster.now)
    receive = (calls.prep_recv("r", 0, 40, "t2"), calls.generate("g", 40, 8, "t2"))
    a.submit(calls.of("p", PROMPT, *receive), True, cluster.now)
    cluster.run()
    assert a.tokens("p/0") == calls.reference(PROMPT, 8)
    assert b.reports("p/0")["s2"].state == "done"
    cluster.check_clean()


def test_a_call_that_releases_all_that_it_makes_is_done_at_once(cluster: Any, calls: Any) -> None:
    b = cluster.add("b")
    steps = (calls.prep_recv("s1", 0, 40, "t1"), ReleaseCall("s2", "t1"))
    b.submit(calls.of("p", PROMPT, *steps), True, cluster.now)
    cluster.run()
    assert b.reports("p/0")["s2"].state == "done"
    cluster.check_clean()


def test_a_key_used_again_at_once_gets_nothing_of_the_plan_before(cluster: Any, calls: Any) -> None:
    b = cluster.add("b")
    b.submit(calls.of("p", PROMPT, calls.generate("s1", 0, 4)), True, cluster.now)
    b.service.plan(cluster.now)
    b.service.cancel("p/0", cluster.now)
    b.submit(calls.of("p", PROMPT, calls.prep_recv("s2", 0, 40, "t")), False, cluster.now)
    assert b.service.release(("t",), cluster.now) == 1


def test_a_malformed_message_is_counted(cluster: Any, calls: Any) -> None:
    a, b = cluster.add("a"), cluster.add("b")
    a.transport.send(b.transport.address, b"no message")
    cluster.run()
    assert b.service.num_dropped == 1


def test_a_draining_worker_says_so(cluster: Any) -> None:
    b = cluster.add("b")
    b.service.draining = True
    assert b.service.stats().stats.draining


def test_a_fault_of_ours_ends_the_plan_that_it_concerned_and_no_other(
    cluster: Any, calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = split(cluster, calls, 90, PROMPT)
    split(cluster, calls, 90, PROMPT[::-1], "q")
    write = b.model._kv.write

    def fail_once(*arguments: Any) -> None:
        monkeypatch.setattr(b.model._kv, "write", write)
        raise KeyError("a bug")

    monkeypatch.setattr(b.model._kv, "write", fail_once)
    cluster.run()
    assert [problem.kind for problem in b.problems("p/0")] == ["engine_error"]
    assert b.tokens("q/0") == calls.reference(PROMPT[::-1], 8)
    a.service.cancel("p/0", cluster.now)
    cluster.check_clean()


def test_a_lost_device_is_nobodys_fault_alone(
    cluster: Any, calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contained, it would fail every plan that receives KV, one after another."""
    _, b = split(cluster, calls, 90, PROMPT)

    def lose(*_: Any) -> None:
        raise DeviceLost("an illegal memory access")

    monkeypatch.setattr(b.model._kv, "write", lose)
    with pytest.raises(DeviceLost):
        cluster.run()


def test_a_fault_of_ours_at_a_receivers_word_ends_the_send(
    cluster: Any, calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = split(cluster, calls, 90, PROMPT)
    on_grant = Sends.on_grant

    def fail_once(*arguments: Any) -> None:
        monkeypatch.setattr(Sends, "on_grant", on_grant)
        raise KeyError("a bug")

    monkeypatch.setattr(Sends, "on_grant", fail_once)
    cluster.run()
    assert [problem.kind for problem in a.problems("p/0")] == ["engine_error"]
    assert [problem.kind for problem in b.problems("p/0")] == ["worker_lost_error"]
    cluster.check_clean()


def test_after_a_fault_that_lost_pages_the_process_ends(
    cluster: Any, calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = cluster.add("a")

    def lost() -> None:
        raise AssertionError("page 3 is nobody's")

    monkeypatch.setattr(a.engine, "check_integrity", lost)
    with pytest.raises(AssertionError, match="page 3"):
        a.service.contain("", cluster.now)


def test_an_announcement_ends_with_its_sender(cluster: Any, calls: Any) -> None:
    """It came before the call that it means; what the call finds must not be a grant to the dead."""
    a, b = cluster.add("a"), cluster.add("b")
    send = calls.remote_send("s2", 0, 90, (b.receiver("t1"),))
    a.submit(calls.of("p", PROMPT, send), True, cluster.now)
    for _ in range(3):
        cluster.turn()
    cluster.kill(a)
    cluster.turn()
    steps = (calls.prep_recv("s1", 0, 90, "t1"), calls.generate("s3", 90, 8, "t1"))
    b.submit(calls.of("p", PROMPT, *steps), True, cluster.now)
    for _ in range(3):
        cluster.turn()
    assert b.service.state()["tickets"] == {"t1": "registered"}
    b.service.cancel("p/0", cluster.now)
    cluster.run()
    cluster.check_clean()


@pytest.mark.parametrize("number", range(1, 7))
def test_kv_that_the_device_has_no_memory_to_read_ends_its_plan_alone(
    cluster: Any, calls: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Within a step or outside of one; and the slot that was to hold it is there for others."""
    a, b = split(cluster, calls, 90, PROMPT)
    split(cluster, calls, 90, PROMPT[::-1], "q")
    read, num_reads, failed = a.kv.read, 0, []

    def fail_at_one(pages: Any, *rest: Any) -> None:
        nonlocal num_reads
        num_reads += 1
        if num_reads == number:
            failed.append(next(key for key in ("p/0", "q/0") if a.engine.find(key).pages is pages))
            raise StepOutOfMemory("none left")
        read(pages, *rest)

    monkeypatch.setattr(a.kv, "read", fail_at_one)
    cluster.run()
    (key,) = failed
    other = "q/0" if key == "p/0" else "p/0"
    (problem,) = a.problems(key)
    assert problem.retryable
    assert "no memory left to read KV" in problem.detail
    assert [problem.kind for problem in b.problems(key)] == ["worker_lost_error"]
    assert b.tokens(other) == calls.reference(PROMPT if other == "p/0" else PROMPT[::-1], 8)
    cluster.check_clean()
    slots = [a.transport.stage(b.transport.address, 8) for _ in range(8)]
    assert all(isinstance(slot, StagingSlot) for slot in slots), "a slot was lost"
