"""`cached_tokens` is what no engine computed: compared with what the engines' own reports add up to, under
every strategy that can be served, whatever became of a prompt before."""

import http.client
import json
import os
import random
import re
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

NUM_PROMPT = 333  # tokens; blocks have 16
BLOCK_TOKENS = 16
OPERATOR = "operator"
QUICK = {"fetch", "preble_live", "handoff", "migration", "prefill_decode", "preble_pd"}
FOLDER = Path(str(files("mserve.strategies")))
FETCH = """strategy fetch "answers where nothing is cached, with what is fetched from where it is"

pool workers

let home = argmax(cached(w) for w in workers)
let away = argmin(cached(w) for w in workers)

route fetched {
  reuse prompt from home
  generate on away
}
"""


def texts() -> dict[str, str]:
    """Strategies by name, all over the pools `prefill` and `decode`, so that one cluster will do."""
    shipped = {path.stem: path.read_text("utf-8") for path in sorted(FOLDER.glob("*.mserve"))}
    shipped["pipeline_prefill"] = shipped["pipeline_prefill"].replace("workers = 3", "workers = 1")
    return {name: over_decode(text) for name, text in {**shipped, "fetch": FETCH}.items()}


def over_decode(text: str) -> str:
    """A strategy of one pool, `workers`, over the pool `decode`."""
    return text if "\npool decode" in text else re.sub(r"\bworkers\b(?! = \d+ })", "decode", text)


def cases() -> list[Any]:
    """All but a few only in `make chaos`."""
    return [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.chaos) for name in texts()
    ]


@dataclass(frozen=True)
class Asked:
    """A request that is over: its usage and its plan."""

    usage: Any
    plan: Any

    @property
    def cached(self) -> int:
        """What the client was told."""
        count: int = self.usage["prompt_tokens_details"]["cached_tokens"]
        return count

    @property
    def steps(self) -> list[Any]:
        return [step for attempt in self.plan["attempts"] for step in attempt["steps"]]

    @property
    def num_computed(self) -> int:
        """Prompt tokens that engines computed, by their own reports."""
        return sum(computed(step, self.usage["prompt_tokens"]) for step in self.steps)

    @property
    def num_received(self) -> int:
        return sum(step["received"] for step in self.steps if step["op"] == "prep_recv")


def computed(step: Any, num_prompt: int) -> int:
    """What a step computed of the prompt; the tokens of an answer that moved come after it."""
    if step["op"] not in ("remote_send", "start_generate"):
        return 0
    goes_on = step["op"] == "start_generate" and step["after"]
    num_beyond = 1 if goes_on else max(0, step.get("end", 0) - num_prompt)
    return max(0, int(step["computed"]) - num_beyond)


@dataclass(frozen=True)
class Site:
    """A cluster whose strategy can be replaced."""

    server: Any

    def follow(self, text: str) -> None:
        with self._connection() as line:
            line.request("PUT", "/v1/strategy", text.encode(), self._operator)
            response = line.getresponse()
            assert response.status == 200, response.read()

    def ask(self, prompt: list[int]) -> Asked:
        """Answers of 24 tokens: one that moves under `handoff` does so after 16."""
        body = {"model": "mserve-tiny", "prompt": prompt, "max_tokens": 24, "ignore_eos": True}
        status, answer, headers = self.server.ask("/v1/completions", body)
        assert status == 200, answer
        return Asked(answer["usage"], self.plan(headers["x-mserve-plan"].partition(";")[0]))

    def plan(self, plan_id: str) -> Any:
        """Once it is over, and all of its steps."""
        while True:
            _, plan, _ = self.server.ask(f"/v1/plans/{plan_id}")
            states = {step["state"] for each in plan["attempts"] for step in each["steps"]}
            if plan["usage"] and not states & {"pending", "running"}:
                return plan
            time.sleep(0.01)

    def ask_until_known(self, prompt: list[int]) -> Asked:
        """Again until the index knew of the prompt before: it follows the caches."""
        while not (asked := self.ask(prompt)).plan["cached"]["available"]:
            time.sleep(0.02)
        return asked

    def resumed(self, prompt: list[int]) -> Asked:
        """Streamed, its worker killed when the answer had begun."""
        body = {"model": "mserve-tiny", "prompt": prompt, "max_tokens": 400, "ignore_eos": True}
        streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
        with self._connection() as line:
            line.request("POST", "/v1/completions", json.dumps(streamed))
            response = line.getresponse()
            response.readline()
            plan_id = response.headers["x-mserve-plan"].partition(";")[0]
            self._kill_generating(plan_id)
            events = [json.loads(row[6:]) for row in response if row.startswith(b"data: {")]
        return Asked(events[-1]["usage"], self.plan(plan_id))

    def _kill_generating(self, plan_id: str) -> None:
        _, plan, _ = self.server.ask(f"/v1/plans/{plan_id}")
        (step,) = [s for s in plan["attempts"][0]["steps"] if s["op"] == "start_generate"]
        for front, engine in self.server.workers():
            if step["worker"] in Path(f"/proc/{front}/cmdline").read_text().split("\0"):
                os.kill(engine, signal.SIGKILL)
                return
        raise AssertionError(f"no process of {step['worker']}")

    @property
    def _operator(self) -> dict[str, str]:
        return {"authorization": f"Bearer {OPERATOR}"}

    def _connection(self) -> Any:
        netloc = urlsplit(self.server.url).netloc
        return closing(http.client.HTTPConnection(netloc, timeout=60))


def fresh(num_tokens: int) -> list[int]:
    return random.choices(range(100, 2000), k=num_tokens)


@pytest.fixture(scope="module")
def site(serve: Any) -> Iterator[Site]:
    flags = ["--cluster", "prefill=1", "--cluster", "decode=2"]
    flags += ["--kv-memory", "64MiB", "--threads", "1"]
    with serve("prefill_decode", *flags, env={"MSERVE_ADMIN_TOKEN": OPERATOR}) as server:
        yield Site(server)


@pytest.mark.parametrize("name", cases())
def test_cached_is_what_no_engine_computed(site: Site, name: str) -> None:
    site.follow(texts()[name])
    prompt = fresh(NUM_PROMPT)
    cold = site.ask(prompt)
    assert (cold.cached, cold.num_computed) == (0, NUM_PROMPT)
    warm = site.ask_until_known(prompt)
    half = site.ask(prompt[: NUM_PROMPT // 2] + fresh(NUM_PROMPT // 2))
    for asked in (warm, half, site.ask(prompt)):
        num_prompt = asked.usage["prompt_tokens"]
        assert asked.cached == num_prompt - asked.num_computed
        counts = asked.plan["cached"]
        assert counts["delivered"] == asked.cached
        assert 0 <= counts["routed"] <= counts["available"] < num_prompt
    assert warm.plan["cached"]["available"] >= NUM_PROMPT - BLOCK_TOKENS
    assert half.cached <= NUM_PROMPT // 2


def test_what_was_computed_elsewhere_for_this_request_was_not_cached(site: Site) -> None:
    site.follow(texts()["prefill_decode"])
    asked = site.ask(fresh(NUM_PROMPT))
    assert asked.num_received == NUM_PROMPT - 1
    assert asked.cached == 0


def test_what_was_cached_elsewhere_was(site: Site) -> None:
    prompt = fresh(NUM_PROMPT)
    site.follow(texts()["data_parallel"])
    site.ask(prompt)
    site.ask_until_known(prompt[:-50] + fresh(50))
    site.follow(texts()["fetch"])
    asked = site.ask(prompt)
    assert asked.num_received > 0
    assert asked.cached == NUM_PROMPT - asked.num_computed > 0


def lost_and_done_again(asked: Asked) -> int:
    """What the first attempt's worker had computed when it was killed, and the last one's computed. The
    first cannot report any more: but its answer had begun, so it was all that it had not found."""
    first, *_, last = asked.plan["attempts"]
    assert first is not last, "the answer was over before its worker was killed"
    before, after = first["steps"][-1], last["steps"][-1]
    lost: int = NUM_PROMPT - max(before["matched"], before["begin"])
    sent = sum(computed(s, NUM_PROMPT) for s in asked.steps if s["op"] == "remote_send")
    return lost + sent + max(0, int(after["computed"]) - int(before["generated"]))


def test_what_a_lost_worker_found_and_the_next_one_too_was_cached(site: Site) -> None:
    prompt = fresh(NUM_PROMPT)
    site.follow(texts()["data_parallel"])
    site.ask(prompt)
    site.ask_until_known(prompt[:-50] + fresh(50))
    site.follow(texts()["fetch"])
    site.ask(prompt)  # now both workers have it
    site.follow(texts()["least_loaded"])
    asked = site.resumed(prompt)
    assert asked.cached == NUM_PROMPT - lost_and_done_again(asked)
    assert asked.cached > NUM_PROMPT - 3 * BLOCK_TOKENS


@pytest.mark.chaos
def test_what_a_lost_worker_computed_was_not_cached(site: Site) -> None:
    site.follow(texts()["prefill_decode"])
    asked = site.resumed(fresh(NUM_PROMPT))
    assert lost_and_done_again(asked) >= NUM_PROMPT
    assert asked.cached == 0
