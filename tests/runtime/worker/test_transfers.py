"""KV on its way: several receivers, pages of different sizes, many at once, a slow one, a flipped bit."""

from typing import Any

import pytest

PROMPT = [(7 * i + i * i) % 89 for i in range(103)]


def send_to(cluster: Any, calls: Any, prompt: list[int], *receivers: Any, plan: str = "p") -> Any:
    """`compute prompt[:90] on a; generate on each of the receivers`, a plan key for each of them."""
    a = cluster.workers["a"]
    to = tuple(each.receiver(f"{plan}.{each.name}") for each in receivers)
    a.submit(calls.of(plan, prompt, calls.remote_send("s2", 0, 90, to)), True, cluster.now)
    for each in receivers:
        ticket = f"{plan}.{each.name}"
        steps = (calls.prep_recv("s1", 0, 90, ticket), calls.generate("s3", 90, 8, ticket))
        each.submit(calls.of(plan, prompt, *steps), True, cluster.now)
    return a


def has_answered(worker: Any, plan: str = "p") -> bool:
    return len(worker.tokens(f"{plan}/0")) == 8


def test_one_send_has_several_receivers_that_lack_different_parts(cluster: Any, calls: Any) -> None:
    _, b, c = (cluster.add(name) for name in "abc")
    b.submit(calls.of("before", PROMPT[:50], calls.generate("g", 0, 1)), True, cluster.now)
    cluster.run()
    a = send_to(cluster, calls, PROMPT, b, c)
    cluster.run()
    assert b.tokens("p/0") == c.tokens("p/0") == calls.reference(PROMPT, 8)
    assert [w.reports("p/0")["s1"].received for w in (b, c)] == [90 - 48, 90]
    assert a.reports("p/0")["s2"].sent == 90 - 48 + 90
    assert a.reports("p/0")["s2"].computed == 90, "computed once"
    cluster.check_clean()


@pytest.mark.parametrize("turns", range(5))
def test_a_receiver_that_dies_leaves_the_other_with_all_or_nothing(
    cluster: Any, calls: Any, turns: int
) -> None:
    _, b, c = (cluster.add(name) for name in "abc")
    a = send_to(cluster, calls, PROMPT, b, c)
    for _ in range(turns):
        cluster.turn()
    cluster.kill(c)
    cluster.run()
    assert [problem.kind for problem in a.problems("p/0")] == ["worker_lost_error"]
    assert b.tokens("p/0") == ([] if b.problems("p/0") else calls.reference(PROMPT, 8))
    cluster.check_clean()


@pytest.mark.parametrize("page_sizes", [(4, 7), (7, 4), (16, 3)])
def test_sender_and_receiver_may_have_pages_of_different_sizes(
    cluster: Any, calls: Any, page_sizes: tuple[int, int]
) -> None:
    _, b = (cluster.add(n, page_size=size) for n, size in zip("ab", page_sizes, strict=True))
    send_to(cluster, calls, PROMPT, b)
    cluster.run()
    assert b.tokens("p/0") == calls.reference(PROMPT, 8)
    cluster.check_clean()


def test_many_transfers_at_once_over_ucx(ucx_cluster: Any, calls: Any) -> None:
    """Both ways, two receivers each, pages of three sizes."""
    a, b, c = (ucx_cluster.add(n, page_size=size) for n, size in zip("abc", (4, 6, 5), strict=True))
    prompts = {f"p{i}": [i, *PROMPT] for i in range(12)}
    for plan, prompt in prompts.items():
        send_to(ucx_cluster, calls, prompt, b, c, plan=plan)
    back = [99, *PROMPT]
    send = calls.remote_send("s2", 0, 90, (a.receiver("back"),))
    b.submit(calls.of("back", back, send), True, ucx_cluster.now)
    steps = (calls.prep_recv("s1", 0, 90, "back"), calls.generate("s3", 90, 8, "back"))
    a.submit(calls.of("back", back, *steps), True, ucx_cluster.now)
    ucx_cluster.run_until(lambda: all(has_answered(w, p) for w in (b, c) for p in prompts))
    ucx_cluster.run_until(lambda: has_answered(a, "back"))
    for plan, prompt in prompts.items():
        assert b.tokens(f"{plan}/0") == c.tokens(f"{plan}/0") == calls.reference(prompt, 8)
    assert a.tokens("back/0") == calls.reference(back, 8)
    ucx_cluster.run_until(lambda: all(w.service.num_sessions == 0 for w in (a, b, c)))
    ucx_cluster.check_clean()
    ucx_cluster.run_until(lambda: all(w.transport.num_slots_held == 0 for w in (a, b, c)))


def test_a_receiver_that_takes_nothing_does_not_hold_up_another(cluster: Any, calls: Any) -> None:
    _, slow, quick = (cluster.add(name) for name in ("a", "slow", "quick"))
    a = send_to(cluster, calls, PROMPT, slow)
    while slow.service.state()["tickets"] != {"p.slow": "reserved"}:
        cluster.turn()
    slow.alive = False  # frozen: its slots fill up
    for _ in range(20):
        cluster.turn()
    assert a.transport.stage(slow.transport.address, 1) is None, "its share is used up"
    send_to(cluster, calls, [5, *PROMPT], quick, plan="q")
    cluster.run()
    assert quick.tokens("q/0") == calls.reference([5, *PROMPT], 8)
    slow.alive = True
    cluster.run()
    assert slow.tokens("p/0") == calls.reference(PROMPT, 8)
    cluster.check_clean()


@pytest.mark.parametrize("number", [0, 4, 11])
def test_a_bit_flipped_on_the_way_fails_the_plan_and_reaches_no_page(
    cluster: Any, calls: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    a, b = cluster.add("a"), cluster.add("b")
    send, payloads = a.transport.send, 0

    def flip(peer: bytes, header: bytes, slot: Any = None) -> None:
        nonlocal payloads
        if slot is not None:
            if payloads == number:
                slot.view[-1] ^= 1
            payloads += 1
        send(peer, header, slot)

    monkeypatch.setattr(a.transport, "send", flip)
    send_to(cluster, calls, PROMPT, b)
    cluster.run()
    assert b.service.stats().corrupted_messages == 1
    for worker in (a, b):
        assert [problem.kind for problem in worker.problems("p/0")] == ["worker_lost_error"]
        assert worker.problems("p/0")[0].retryable
        assert "checksum" in worker.problems("p/0")[0].detail
    cluster.check_clean()
    send_to(cluster, calls, PROMPT, b, plan="again")
    cluster.run()
    assert b.tokens("again/0") == calls.reference(PROMPT, 8)
