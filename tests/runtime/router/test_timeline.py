"""Plans as people see them: lanes of steps."""

from typing import Any

import httpx

from mserve.runtime.router.timeline import render_timeline

PROMPT = "The quick brown fox"


def test_a_split_plan_as_a_timeline(kit: Any) -> None:
    async def use(client: httpx.AsyncClient, cluster: Any, router: Any) -> str:
        answer = await client.post("/v1/completions", json={"model": kit.MODEL, "prompt": PROMPT})
        plan_id = answer.headers["x-mserve-plan"].partition(";")[0]
        return render_timeline((await client.get(f"/v1/plans/{plan_id}")).json())

    strategy = kit.Strategy(kit.split, kit.PREFILL_DECODE)
    text = kit.serve(use, cluster=kit.cluster("prefill-0", "decode-0"), strategy=strategy)
    lines = text.splitlines()
    assert lines[0].startswith("plan ")
    assert "19 prompt tokens" in lines[0]
    assert lines[1] == "strategy fake, route only (d = decode-0)"
    lanes = [line.split() for line in lines[2:]]
    assert [lane[:3] for lane in lanes] == [
        ["decode-0", "s1", "receive"],
        ["s3", "generate", lanes[1][2]],
        ["prefill-0", "s2", "send"],
    ]
    assert "17.6 KiB" in lines[4]
    assert "█" in lines[4]


def test_what_every_route_would_have_taken_the_one_that_was_taken_first() -> None:
    attempt = {
        "strategy": "t",
        "route": "b",
        "bindings": {},
        "guards": [["a", False], ["b", True]],
        "forecasts_s": {"a": 0.0425, "b": 1.5, "c": None},
        "steps": [],
    }
    plan = {
        "id": "1",
        "state": "done",
        "prompt_tokens": 10,
        "first_token_ms": None,
        "ended_ms": 3.0,
        "usage": None,
        "error": None,
        "num_attempts": 1,
        "attempts": [attempt],
    }
    assert render_timeline(plan).splitlines()[2:] == [
        "  route a passed over: its guard does not hold",
        "  time to first token predicted for b 1500.0 ms, a 42.5 ms, c impossible",
    ]
