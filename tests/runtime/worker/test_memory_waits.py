"""Plans that wait for each other's pages on several workers: the younger one gives way."""

from typing import Any

import pytest

PROMPTS = {
    "x": [(7 * i + i * i) % 89 for i in range(101)],
    "y": [(5 * i + i * i) % 83 for i in range(101)],
}
ROOM_FOR_ONE = 30  # pages


def submit(cluster: Any, calls: Any, plan: str, senders: dict[str, int], receiver: str) -> None:
    """`compute` on each of `senders` up to its end, then `generate on receiver`."""
    workers, prompt, begin, preps = cluster.workers, PROMPTS[plan], 0, []
    for number, (sender, end) in enumerate(senders.items()):
        ticket = f"{plan}{number}"
        send = calls.remote_send(f"send{number}", begin, end, (workers[receiver].receiver(ticket),))
        workers[sender].submit(calls.of(plan, prompt, send), True, cluster.now)
        preps.append(calls.prep_recv(f"receive{number}", begin, end, ticket))
        begin = end
    generate = calls.generate("generate", begin, 4, *(prep.ticket for prep in preps))
    workers[receiver].submit(calls.of(plan, prompt, *preps, generate), True, cluster.now)


def patiently(cluster: Any) -> None:
    """Runs until nothing happens, and again after every plan's patience has ended."""
    for _ in range(4):
        cluster.run()
        cluster.now += 0.3
    cluster.run()


def given_up(cluster: Any, plan: str) -> set[str]:
    problems = [p for w in cluster.workers.values() for p in w.problems(f"{plan}/0")]
    return {problem.kind for problem in problems if problem.retryable}


@pytest.mark.parametrize("order", ["xy", "yx"])
def test_two_that_send_to_each_other(cluster: Any, calls: Any, order: str) -> None:
    """Each worker has room for one sequence, and both give it to the sending one."""
    a, b = cluster.add("a", num_pages=ROOM_FOR_ONE), cluster.add("b", num_pages=ROOM_FOR_ONE)
    ways = {"x": ("a", "b"), "y": ("b", "a")}
    for plan in order:
        sender, receiver = ways[plan]
        submit(cluster, calls, plan, {sender: 100}, receiver)
    patiently(cluster)
    assert b.tokens("x/0") == calls.reference(PROMPTS["x"], 4), "the older plan goes on"
    assert a.tokens("y/0") in ([], calls.reference(PROMPTS["y"], 4)), "it may compute all itself"
    assert ("overloaded_error" in given_up(cluster, "y")) is (order == "yx")
    a.service.cancel("y/0", cluster.now)  # as the router does when it makes the plan anew
    cluster.run()
    cluster.check_clean()


def test_one_that_has_given_way_is_done_afterwards(cluster: Any, calls: Any) -> None:
    a, b = cluster.add("a", num_pages=ROOM_FOR_ONE), cluster.add("b", num_pages=ROOM_FOR_ONE)
    submit(cluster, calls, "y", {"b": 100}, "a")
    submit(cluster, calls, "x", {"a": 100}, "b")
    patiently(cluster)
    a.service.cancel("y/0", cluster.now)
    cluster.run()
    call = calls.of("y", PROMPTS["y"], calls.generate("generate", 0, 4))
    b.submit(type(call)("y", call.tokens, call.steps, attempt=1), True, cluster.now)
    patiently(cluster)
    assert b.tokens("y/1") == calls.reference(PROMPTS["y"], 4)
    cluster.check_clean()


def test_a_receiver_with_one_of_two_senders_gives_way(cluster: Any, calls: Any) -> None:
    """y holds pages on c for what a sends, and waits for b, whose pages x holds to send to c."""
    for name, num_pages in (("a", 100), ("b", ROOM_FOR_ONE), ("c", ROOM_FOR_ONE)):
        cluster.add(name, num_pages=num_pages)
    _, b, c = cluster.workers.values()
    send = calls.remote_send("send", 0, 100, (c.receiver("x0"),))
    b.submit(calls.of("x", PROMPTS["x"], send), True, cluster.now)
    for _ in range(3):
        cluster.turn()
    submit(cluster, calls, "y", {"a": 50, "b": 100}, "c")
    for _ in range(20):
        cluster.turn()
    steps = (calls.prep_recv("receive", 0, 100, "x0"), calls.generate("generate", 100, 4, "x0"))
    c.submit(calls.of("x", PROMPTS["x"], *steps), True, cluster.now)
    patiently(cluster)
    assert c.tokens("x/0") == calls.reference(PROMPTS["x"], 4)
    assert "overloaded_error" in given_up(cluster, "y")


def test_nobody_gives_way_while_there_is_room(cluster: Any, calls: Any) -> None:
    a, b = cluster.add("a", num_pages=100), cluster.add("b", num_pages=100)
    submit(cluster, calls, "y", {"b": 100}, "a")
    submit(cluster, calls, "x", {"a": 100}, "b")
    patiently(cluster)
    assert b.tokens("x/0") == calls.reference(PROMPTS["x"], 4)
    assert a.tokens("y/0") == calls.reference(PROMPTS["y"], 4)
    cluster.check_clean()


def crowded(cluster: Any, calls: Any) -> Any:
    """y has all of a's room and sends to b, which has heard of no plan; x, older, waits for pages."""
    a, b = cluster.add("a", num_pages=ROOM_FOR_ONE), cluster.add("b")
    send = calls.remote_send("send", 0, 100, (b.receiver("y0"),))
    a.submit(calls.of("y", PROMPTS["y"], send), True, cluster.now)
    cluster.turn()
    a.submit(calls.of("x", PROMPTS["x"], calls.generate("generate", 0, 4)), True, cluster.now)
    cluster.turn()
    assert a.engine.stats().waiting == 1
    return a


def test_who_still_computes_does_not_give_way(cluster: Any, calls: Any) -> None:
    """It waits for nothing yet; how long its receiver takes does not matter."""
    a = crowded(cluster, calls)
    cluster.now += 0.3
    while not a.engine.find("y/0").is_stalled:
        assert not a.problems("y/0")
        cluster.turn()
    patiently(cluster)
    assert given_up(cluster, "y") == {"overloaded_error"}
    assert a.tokens("x/0") == calls.reference(PROMPTS["x"], 4)


def test_most_waits_end_by_themselves(cluster: Any, calls: Any) -> None:
    a = crowded(cluster, calls)
    while not a.engine.find("y/0").is_stalled:
        cluster.turn()
    for _ in range(20):
        cluster.turn()
    assert not a.problems("y/0"), "a moment's wait ends nobody"
    cluster.now += 0.3
    cluster.run()
    assert given_up(cluster, "y") == {"overloaded_error"}
