"""What does it cost to compute a prompt on one worker and answer on another? On real clusters.

    python bench/disaggregation.py [--rounds N] [--json FILE]

Two clusters of the small model run side by side: `prefill_decode` with one worker in each pool, and
`data_parallel` with one worker. Each round asks both for the same number of fresh random tokens, one
request at a time, so that a busy machine slows both; the difference of the times to the first token
is what disaggregation adds. It contains one model step more, the last prompt token's, which is as
long as the one to the second token. Aim: one round trip, under 10 ms.

Then the two workers of the first are asked directly, by the public calls: compute a prompt without
sending it, compute and send it, send what is there already. A transfer is hidden if the receiver has
all of it before the sender's last step ends; on a CPU its copies still take time from the compute.
Bars: 80% hidden; at most 10% of prefill.
"""

import argparse
import http.client
import json
import os
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from record import write_record
from served import AUTHORIZATION, CLUSTER_TOKEN, MSERVE, started

PROMPT_TOKENS = (16, 600, 3000)
TRANSFER_TOKENS = 3008  # whole pages, and one token more in the prompt: all of it can be cached
WARM_UP_ROUNDS = 2
VOCABULARY = range(100, 2000)
STEPS = ("prep_recv", "remote_send", "start_generate")
HEADERS = {"content-type": "application/json", **AUTHORIZATION}


class Peer:
    """A router or a worker, over one kept connection."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)

    def get(self, path: str) -> Any:
        self._connection.request("GET", path, headers=HEADERS)
        return json.load(self._connection.getresponse())

    def post(self, path: str, body: object) -> Any:
        answer = self._open(path, body)
        return json.load(answer)

    def ask(self, prompt: list[int]) -> "Times":
        """A streamed greedy answer of two tokens."""
        body = {"model": "mserve-tiny", "prompt": prompt, "max_tokens": 2, "temperature": 0}
        sent_s = time.perf_counter()
        answer = self._open("/v1/completions", {**body, "stream": True, "ignore_eos": True})
        moments_s = [time.perf_counter() for line in answer if line.startswith(b"data: {")]
        plan = answer.headers["x-mserve-plan"].partition(";")[0]
        return Times(moments_s[0] - sent_s, moments_s[1] - moments_s[0], plan)

    def _open(self, path: str, body: object) -> http.client.HTTPResponse:
        self._connection.request("POST", path, json.dumps(body), HEADERS)
        answer = self._connection.getresponse()
        assert answer.status == 200, f"{path} is refused: {answer.read().decode()}"
        return answer


@dataclass(frozen=True, slots=True)
class Times:
    first_token_s: float
    next_token_s: float
    plan: str


@contextmanager
def serving(strategy: str, pools: list[str]) -> Iterator[str]:
    """The URL of a cluster with one single-threaded worker in every pool."""
    counts = [argument for pool in pools for argument in ("--cluster", f"{pool}=1")]
    argv = [*MSERVE, "serve", strategy, *counts, "--threads", "1", "--port", "0"]
    argv += ["--log-level", "warning", "--kv-memory", "1GiB"]
    with started(argv, {**os.environ, "MSERVE_CLUSTER_TOKEN": CLUSTER_TOKEN}) as (process, url, _):
        yield url
        process.terminate()
        process.wait(15)


def fresh_prompt(num_tokens: int) -> list[int]:
    return random.choices(VOCABULARY, k=num_tokens)


# --- the way to the first token ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Medians over the rounds; `added` is the median of each round's difference."""

    prompt_tokens: int
    one_worker_ms: float
    disaggregated_ms: float
    added_ms: float
    added_p90_ms: float
    one_step_ms: float


def first_tokens(one: Peer, two: Peer, num_tokens: int, rounds: int) -> FirstToken:
    pairs = []
    for number in range(WARM_UP_ROUNDS + rounds):
        sides = (one, two) if number % 2 else (two, one)
        times = {side: side.ask(fresh_prompt(num_tokens)) for side in sides}
        pairs.append((times[one], times[two]))
    ones, twos = zip(*pairs[WARM_UP_ROUNDS:], strict=True)
    added = sorted(b.first_token_s - a.first_token_s for a, b in zip(ones, twos, strict=True))
    return FirstToken(
        num_tokens,
        ms(statistics.median(times.first_token_s for times in ones)),
        ms(statistics.median(times.first_token_s for times in twos)),
        ms(statistics.median(added)),
        ms(added[int(0.9 * len(added))]),
        ms(statistics.median(times.next_token_s for times in ones)),
    )


# --- how much of a transfer is hidden --------------------------------------------------------------


class Pair:
    """A sending and a receiving worker, asked by the public calls."""

    def __init__(self, sender_url: str, receiver_url: str) -> None:
        self._sender, self._receiver = Peer(sender_url), Peer(receiver_url)
        state = self._receiver.get("/v1/microserving/state")
        self._address = {
            "worker": state["name"],
            "incarnation": state["incarnation"],
            "address": state["transport_address"],
            "fingerprint": state["fingerprint"],
        }

    def compute_s(self, prompt: list[int]) -> float:
        return self._timed_s(prompt, [])

    def send_s(self, prompt: list[int]) -> float:
        """Computing what the sender lacks, until the receiver has everything."""
        ticket = os.urandom(16).hex()
        plan = {"plan_id": os.urandom(16).hex(), "tokens": prompt, "end": TRANSFER_TOKENS}
        self._receiver.post("/v1/microserving/prep_recv", {**plan, "ticket": ticket})
        elapsed_s = self._timed_s(prompt, [{"ticket": ticket, **self._address}])
        self._receiver.post("/v1/microserving/release", {"tickets": [ticket]})
        return elapsed_s

    def _timed_s(self, prompt: list[int], to: list[dict[str, str]]) -> float:
        body = {"plan_id": os.urandom(16).hex(), "tokens": prompt, "end": TRANSFER_TOKENS, "to": to}
        report = self._sender.post("/v1/microserving/remote_send", body)
        elapsed_s: float = report["ended_s"] - report["started_s"]
        return elapsed_s


def overlap(router: Peer, pair: Pair, rounds: int) -> dict[str, float]:
    found = []
    for _ in range(WARM_UP_ROUNDS + rounds):
        known, fresh = (fresh_prompt(TRANSFER_TOKENS + 1) for _ in range(2))
        compute_s, both_s, send_s = pair.compute_s(known), pair.send_s(fresh), pair.send_s(known)
        found.append((compute_s, both_s, send_s, both_s / compute_s - 1, early_ms(router)))
    compute, both, send, cost, early = (
        statistics.median(column) for column in zip(*found[WARM_UP_ROUNDS:], strict=True)
    )
    return {
        "compute_ms": ms(compute),
        "compute_and_send_ms": ms(both),
        "send_alone_ms": ms(send),
        "cost_of_prefill": round(cost, 4),
        "received_before_last_step_ended_ms": round(early, 2),
    }


def early_ms(router: Peer) -> float:
    """How long before the sender has computed, sent and heard so, its receiver has everything. More
    than an answer's way back: the receiver had it while the sender was still computing."""
    plan = router.ask(fresh_prompt(TRANSFER_TOKENS + 1)).plan
    ends: dict[str, float] = {}
    while len(ends) < len(STEPS):
        steps = router.get(f"/v1/plans/{plan}")["attempts"][-1]["steps"]
        ends = {step["op"]: step["end_ms"] for step in steps if step["state"] == "done"}
    return ends["remote_send"] - ends["prep_recv"]


def ms(seconds: float) -> float:
    return round(1e3 * seconds, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="requests of each kind")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    with ExitStack() as stack:
        two_url = stack.enter_context(serving("prefill_decode", ["prefill", "decode"]))
        one_url = stack.enter_context(serving("data_parallel", ["workers"]))
        one, two = Peer(one_url), Peer(two_url)
        rows = [first_tokens(one, two, size, options.rounds) for size in PROMPT_TOKENS]
        workers = {worker["pool"]: worker["url"] for worker in two.get("/v1/cluster")["workers"]}
        figures = overlap(two, Pair(workers["prefill"], workers["decode"]), options.rounds)
    print("prompt    one worker   disaggregated   added p50 / p90   of it one step (ms)")
    for row in rows:
        print(
            f"{row.prompt_tokens:6} {row.one_worker_ms:12.1f} {row.disaggregated_ms:15.1f}"
            f" {row.added_ms:9.2f} / {row.added_p90_ms:5.2f} {row.one_step_ms:15.2f}"
        )
    for name, figure in figures.items():
        print(f"{name:36} {figure:8}")
    write_record(
        options.json,
        "what disaggregation adds to the first token, and how much of a transfer is hidden",
        ["mserve", "torch", "ucxx-cu13", "ucxx-cu12"],
        rounds=options.rounds,
        first_token=[{name: getattr(row, name) for name in FirstToken.__slots__} for row in rows],
        transfer={"prompt_tokens": TRANSFER_TOKENS, **figures},
    )


if __name__ == "__main__":
    main()
