"""Workers that compute, send, receive and generate in mixtures give what one worker alone gives."""

from typing import Any

import pytest

from mserve.runtime.messages import CommitCall
from mserve.runtime.worker import ipc

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


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 24, 25, 50, 100, 102])
def test_a_prompt_split_anywhere_gives_the_same_tokens(cluster: Any, calls: Any, cut: int) -> None:
    a, b = split(cluster, calls, cut, PROMPT)
    cluster.run()
    assert b.tokens("p/0") == calls.reference(PROMPT, 8)
    sent, received = a.reports("p/0")["s2"], b.reports("p/0")["s1"]
    generated = b.reports("p/0")["s3"]
    assert (sent.computed, sent.sent, sent.state) == (cut, cut, "done")
    assert (received.received, received.state) == (cut, "done")
    assert sent.sent_bytes == received.received_bytes == cut * 3 * 8
    assert generated.computed == len(PROMPT) - cut
    assert generated.received == cut
    cluster.check_clean()


def test_what_the_receiver_has_cached_is_not_sent_again(cluster: Any, calls: Any) -> None:
    b = cluster.add("b")
    b.submit(calls.of("warm", PROMPT[:50], calls.generate("s", 0, 2)), True, cluster.now)
    cluster.run()
    a, b = split(cluster, calls, 80, PROMPT)
    cluster.run()
    assert b.tokens("p/0") == calls.reference(PROMPT, 8)
    assert a.reports("p/0")["s2"].sent == 80 - 48  # twelve whole pages of four
    assert b.reports("p/0")["s1"].matched == 48
    cluster.check_clean()


def test_a_receiver_that_has_everything_gets_an_empty_send(cluster: Any, calls: Any) -> None:
    split(cluster, calls, 40, PROMPT, "first")
    cluster.run()
    a, b = split(cluster, calls, 40, PROMPT, "second")
    cluster.run()
    assert b.tokens("second/0") == calls.reference(PROMPT, 8)
    assert a.reports("second/0")["s2"].sent == 0
    cluster.check_clean()


def test_three_workers_in_a_pipeline(cluster: Any, calls: Any) -> None:
    a, b, c = (cluster.add(name) for name in "abc")
    first = calls.remote_send("s3", 0, 40, (b.receiver("t1"), c.receiver("t2")))
    second = calls.remote_send("s4", 40, 80, (c.receiver("t3"),), ("t1",))
    a.submit(calls.of("p", PROMPT, first), True, cluster.now)
    b.submit(calls.of("p", PROMPT, calls.prep_recv("s1", 0, 40, "t1"), second), True, cluster.now)
    c.submit(
        calls.of(
            "p",
            PROMPT,
            calls.prep_recv("s2", 0, 40, "t2"),
            calls.prep_recv("s5", 40, 80, "t3"),
            calls.generate("s6", 80, 8, "t2", "t3"),
        ),
        True,
        cluster.now,
    )
    cluster.run()
    assert c.tokens("p/0") == calls.reference(PROMPT, 8)
    assert b.reports("p/0")["s4"].computed == 40
    assert c.reports("p/0")["s6"].computed == len(PROMPT) - 80
    cluster.check_clean()


def test_the_middle_of_a_prompt_may_come_from_elsewhere(cluster: Any, calls: Any) -> None:
    """a computes [0, 30), b [30, 60), a the rest: each is the other's sender."""
    a, b = cluster.add("a"), cluster.add("b")
    a.submit(
        calls.of(
            "p",
            PROMPT,
            calls.remote_send("s2", 0, 30, (b.receiver("t1"),)),
            calls.prep_recv("s3", 30, 60, "t2"),
            calls.generate("s5", 60, 8, "t2"),
        ),
        True,
        cluster.now,
    )
    b.submit(
        calls.of(
            "p",
            PROMPT,
            calls.prep_recv("s1", 0, 30, "t1"),
            calls.remote_send("s4", 30, 60, (a.receiver("t2"),), ("t1",)),
        ),
        True,
        cluster.now,
    )
    cluster.run()
    steps = {**a.reports("p/0"), **b.reports("p/0")}
    assert sum(report.computed for report in steps.values()) == len(PROMPT)
    assert a.tokens("p/0") == calls.reference(PROMPT, 8)
    cluster.check_clean()


def test_a_range_that_only_this_worker_needs_is_computed_and_sent_to_nobody(
    cluster: Any, calls: Any
) -> None:
    a = cluster.add("a")
    steps = (calls.remote_send("s1", 0, 40, ()), calls.generate("s2", 40, 8))
    a.submit(calls.of("p", PROMPT, *steps), True, cluster.now)
    cluster.run()
    assert a.tokens("p/0") == calls.reference(PROMPT, 8)
    assert (a.reports("p/0")["s1"].computed, a.reports("p/0")["s1"].state) == (40, "done")
    assert a.reports("p/0")["s2"].computed == len(PROMPT) - 40  # no token counts in two steps
    cluster.check_clean()


def test_many_at_once_with_little_memory(cluster: Any, calls: Any) -> None:
    cluster.add("a", num_pages=80)
    cluster.add("b", num_pages=80)
    prompts = [[(i * j + j) % 89 for j in range(60 + i)] for i in range(12)]
    for i, prompt in enumerate(prompts):
        split(cluster, calls, 30 + i, prompt, f"p{i:02}")
    cluster.run(20_000)
    b = cluster.workers["b"]
    for i, prompt in enumerate(prompts):
        assert b.tokens(f"p{i:02}/0") == calls.reference(prompt, 8)
    cluster.check_clean()


def test_an_open_that_overtakes_its_plan_call_is_kept(cluster: Any, calls: Any) -> None:
    a, b = cluster.add("a"), cluster.add("b")
    send = calls.remote_send("s2", 0, 40, (b.receiver("t1"),))
    a.submit(calls.of("p", PROMPT, send), True, cluster.now)
    cluster.run()
    steps = (calls.prep_recv("s1", 0, 40, "t1"), calls.generate("s3", 40, 8, "t1"))
    b.submit(calls.of("p", PROMPT, *steps), True, cluster.now)
    cluster.run()
    assert b.tokens("p/0") == calls.reference(PROMPT, 8)
    cluster.check_clean()


def test_an_open_nobody_claims_is_refused(cluster: Any, calls: Any) -> None:
    a, b = cluster.add("a"), cluster.add("b")
    send = calls.remote_send("s2", 0, 40, (b.receiver("t1"),))
    a.submit(calls.of("p", PROMPT, send), True, cluster.now)
    cluster.run()
    cluster.now += 3
    cluster.run()
    assert [problem.kind for problem in a.problems("p/0")] == ["gone_error"]
    cluster.check_clean()


@pytest.mark.parametrize("turns", range(1, 14))
@pytest.mark.parametrize("side", ["a", "b"])
def test_a_cancel_at_any_time_frees_everything(
    cluster: Any, calls: Any, turns: int, side: str
) -> None:
    split(cluster, calls, 90, PROMPT)
    for _ in range(turns):
        cluster.turn()
    cluster.workers[side].service.cancel("p/0", cluster.now)
    cluster.run()
    cluster.now += 3  # an Open that nobody will claim any more is refused then
    cluster.run()
    if side == "a" and not cluster.workers["b"].problems("p/0"):
        # It had not opened, or all had arrived: the receiver's own caller ends it.
        cluster.workers["b"].service.cancel("p/0", cluster.now)
        cluster.run()
    cluster.check_clean()
    split(cluster, calls, 90, PROMPT, "again")
    cluster.run()
    assert cluster.workers["b"].tokens("again/0") == calls.reference(PROMPT, 8)


@pytest.mark.parametrize("turns", range(1, 14))
@pytest.mark.parametrize("side", ["a", "b"])
def test_a_death_at_any_time_frees_everything(
    cluster: Any, calls: Any, turns: int, side: str
) -> None:
    split(cluster, calls, 90, PROMPT)
    for _ in range(turns):
        cluster.turn()
    dead, left = cluster.workers[side], cluster.workers["b" if side == "a" else "a"]
    cluster.kill(dead)
    cluster.run()
    ended = left.problems("p/0") or left.tokens("p/0") == calls.reference(PROMPT, 8)
    assert ended or left.reports("p/0")["s2"].state == "done"
    assert all(p.kind == "worker_lost_error" and p.retryable for p in left.problems("p/0"))
    cluster.check_clean()


def test_a_lease_runs_out_unless_renewed(cluster: Any, calls: Any) -> None:
    b = cluster.add("b")
    b.submit(calls.of("p", PROMPT, calls.prep_recv("s1", 0, 40, "t1")), False, cluster.now)
    cluster.now += 9
    assert b.service.renew(("t1", "unknown"), cluster.now) == 1
    cluster.now += 9
    cluster.run()
    assert not b.problems("p/0")
    cluster.now += 2
    cluster.run()
    assert [problem.kind for problem in b.problems("p/0")] == ["gone_error"]
    assert b.service.renew(("t1",), cluster.now) == 0
    cluster.check_clean()


def test_calls_may_come_one_by_one(cluster: Any, calls: Any) -> None:
    a, b = cluster.add("a"), cluster.add("b")
    b.submit(calls.of("p", PROMPT, calls.prep_recv("s1", 0, 40, "t1")), False, cluster.now)
    cluster.run()
    send = calls.remote_send("s2", 0, 40, (b.receiver("t1"),))
    a.submit(calls.of("p", PROMPT, send), True, cluster.now)
    cluster.run()
    assert b.reports("p/0")["s1"].state == "done"
    b.submit(calls.of("p", PROMPT, calls.generate("s3", 40, 8, "t1")), True, cluster.now)
    cluster.run()
    assert b.tokens("p/0") == calls.reference(PROMPT, 8)
    cluster.check_clean()


def test_a_committed_ticket_becomes_cache(cluster: Any, calls: Any) -> None:
    a, b = cluster.add("a"), cluster.add("b")
    a.submit(
        calls.of("p", PROMPT, calls.remote_send("s2", 0, 80, (b.receiver("t1"),))),
        True,
        cluster.now,
    )
    b.submit(
        calls.of("p", PROMPT, calls.prep_recv("s1", 0, 80, "t1"), CommitCall("s3", "t1")),
        True,
        cluster.now,
    )
    cluster.run()
    assert b.reports("p/0")["s3"].state == "done"
    cluster.check_clean()
    b.submit(calls.of("q", PROMPT, calls.generate("s", 0, 8)), True, cluster.now)
    cluster.run()
    assert b.tokens("q/0") == calls.reference(PROMPT, 8)
    assert b.reports("q/0")["s"].matched == 80


def test_layouts_that_differ_are_refused_with_both_named(cluster: Any, calls: Any) -> None:
    cluster.add("a", fingerprint="other")
    a, b = split(cluster, calls, 40, PROMPT)
    cluster.run()
    (problem,) = b.problems("p/0")
    assert problem.kind == "unprocessable_error"
    assert "a has other" in problem.detail
    assert "this worker has layout" in problem.detail
    a.service.cancel("p/0", cluster.now)
    cluster.check_clean()


def test_an_earlier_incarnation_and_an_overtaken_attempt_are_gone(cluster: Any, calls: Any) -> None:
    b = cluster.add("b")
    call = calls.of("p", PROMPT, calls.generate("s", 0, 2))
    stale = type(call)("p", call.tokens, call.steps, incarnation="b#0")
    newer = type(call)("q", call.tokens, call.steps, attempt=2)
    older = type(call)("q", call.tokens, call.steps, attempt=1)
    for each in (stale, newer, older):
        b.submit(each, True, cluster.now)
    cluster.run()
    assert [problem.kind for problem in b.problems("p/0")] == ["gone_error"]
    assert [problem.kind for problem in b.problems("q/1")] == ["gone_error"]
    assert b.tokens("q/2") == calls.reference(PROMPT, 2)


def test_a_step_twice_is_a_conflict_and_disturbs_nothing(cluster: Any, calls: Any) -> None:
    b = cluster.add("b")
    call = calls.of("p", PROMPT, calls.generate("s", 0, 4))
    b.submit(call, True, cluster.now)
    b.submit(call, True, cluster.now)
    cluster.run()
    assert [problem.kind for problem in b.problems("p/0")] == ["conflict_error"]
    assert b.tokens("p/0") == calls.reference(PROMPT, 4)


def test_a_draining_worker_finishes_and_takes_nothing_new(cluster: Any, calls: Any) -> None:
    b = cluster.add("b")
    b.submit(calls.of("p", PROMPT, calls.generate("s", 0, 4)), True, cluster.now)
    b.service.draining = True
    b.submit(calls.of("q", PROMPT, calls.generate("s", 0, 4)), True, cluster.now)
    cluster.run()
    assert b.tokens("p/0") == calls.reference(PROMPT, 4)
    assert [problem.kind for problem in b.problems("q/0")] == ["unavailable_error"]
    assert any(isinstance(event, ipc.Blocks) for event in b.events)
