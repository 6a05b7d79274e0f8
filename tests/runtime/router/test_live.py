"""A strategy that changes while it is served: by its `adapt` blocks, by hand, as a whole."""

import asyncio
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

import pytest

from mserve.compiler.pipeline import CompiledStrategy, compile_strategy
from mserve.dsl.check import check_text
from mserve.runtime.cli.live import LiveLanguage
from mserve.runtime.errors import BadRequest, ConfigError
from mserve.runtime.router.live import LiveStrategy

SHIPPED = files("mserve.strategies")
HEADERS = {"authorization": "Bearer secret"}
BODY = {"model": "tiny", "prompt": "x" * 1000, "max_tokens": 2}


def compiled(name: str) -> CompiledStrategy:
    return compile_strategy(check_text((SHIPPED / f"{name}.mserve").read_text("utf-8")))


def live(name: str) -> LiveStrategy:
    return LiveStrategy(compiled(name), lambda strategy: None)


def serve(kit: Any, name: str, use: Callable[[Any, Any], Awaitable[Any]], **options: Any) -> Any:
    """Runs `use(client, router)` against a router with one worker in each of two pools."""
    return kit.serve(
        lambda client, _, router: use(client, router),
        cluster=kit.cluster("prefill-0", "decode-0"),
        strategy=compiled(name),
        language=LiveLanguage(),
        **{"admin_token": "secret", **options},
    )


# --- params ------------------------------------------------------------------------------------------


def test_params_change_together_or_not_at_all() -> None:
    served = live("adaptive")
    with pytest.raises(BadRequest, match="'gain' goes from 0% to 50%, not 60%"):
        served.set_params({"tail": 0.2, "gain": 0.6})
    assert served.current.values["tail"] == pytest.approx(0.1)
    with pytest.raises(BadRequest, match="no param 'tial'; it has: tail, gain"):
        served.set_params({"tial": 0.2})
    served.set_params({"tail": 0.2, "gain": 0.4})
    assert dict(served.current.values) == pytest.approx({"tail": 0.2, "gain": 0.4})


def test_a_param_over_http_holds_from_the_next_decision_on(kit: Any) -> None:
    async def use(client: Any, router: Any) -> list[int]:
        sent = []
        for tail in (None, "50%", 0.9):
            if tail is not None:
                changed = await client.patch(
                    "/v1/strategy/params", json={"tail": tail}, headers=HEADERS
                )
                assert changed.status_code == 200, changed.text
            answer = await client.post("/v1/completions", json=BODY)
            plan = router.plans.get(answer.headers["x-mserve-plan"].split(";")[0])
            sent.append(
                next(s.end for s in plan.attempts[0].decision.plan.steps if hasattr(s, "to"))
            )
        return sent

    assert serve(kit, "balanced", use) == [900, 500, 100]


def test_the_strategy_shows_its_params_in_its_own_words(kit: Any) -> None:
    async def use(client: Any, router: Any) -> Any:
        return (await client.get("/v1/strategy")).json()

    shown = serve(kit, "balanced", use)
    assert (shown["name"], shown["version"]) == ("balanced", 1)
    assert shown["params"] == {"tail": {"value": 0.1, "text": "10%", "range": "0%..90%"}}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"tail": "99%"}', "goes from 0% to 90%, not 99%"),
        (b'{"tail": "5ms"}', "expected a ratio, found a duration"),
        (b'{"tial": 0.5}', "no param 'tial'"),
        (b'{"tail": null}', "object of params"),
        (b"[]", "object of params"),
    ],
)
def test_a_bad_value_is_refused_with_the_reason(kit: Any, body: bytes, says: str) -> None:
    async def use(client: Any, router: Any) -> Any:
        answer = await client.patch("/v1/strategy/params", content=body, headers=HEADERS)
        assert router.strategy.current.values["tail"] == pytest.approx(0.1)
        return answer

    answer = serve(kit, "balanced", use)
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


# --- another strategy --------------------------------------------------------------------------------


def test_another_strategy_takes_over_between_two_requests(kit: Any) -> None:
    async def use(client: Any, router: Any) -> list[str]:
        text = (SHIPPED / "prefill_decode.mserve").read_bytes()
        routes = []
        for content in (None, text):
            if content is not None:
                swapped = await client.put("/v1/strategy", content=content, headers=HEADERS)
                assert swapped.status_code == 200, swapped.text
                assert swapped.json()["version"] == 2
            answer = await client.post("/v1/completions", json=BODY)
            routes.append(answer.headers["x-mserve-plan"].split("route=")[1])
        return routes

    assert serve(kit, "balanced", use) == ["split; version=1", "disaggregated; version=2"]


@pytest.mark.parametrize(
    ("text", "status", "says"),
    [
        ("strategy mine", 422, "error[syntax]"),
        ('strategy mine "x"\npool a\nroute r { generate on b }', 422, "unknown-name"),
        (
            'strategy mine "x"\npool a { prefetch = local }\nroute r { generate on next(a) }',
            422,
            "prefetch = local",
        ),
        ('strategy mine "x"\npool a\nroute r { generate on next(a) }', 409, "pool 'a'"),
    ],
)
def test_a_bad_file_leaves_the_old_one_serving(kit: Any, text: str, status: int, says: str) -> None:
    async def use(client: Any, router: Any) -> Any:
        refused = await client.put("/v1/strategy", content=text, headers=HEADERS)
        assert (await client.post("/v1/completions", json=BODY)).status_code == 200
        assert router.strategy.version == 1
        return refused

    refused = serve(kit, "balanced", use)
    assert refused.status_code == status, refused.text
    assert says in refused.json()["error"]["message"]


def test_what_a_router_cannot_observe_is_refused() -> None:
    def check(strategy: Any) -> None:
        if strategy.name == "balanced":
            raise ConfigError("no")

    served = LiveStrategy(compiled("adaptive"), check)
    with pytest.raises(ConfigError):
        served.swap(compiled("balanced"))
    assert (served.name, served.version) == ("adaptive", 1)


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer guess"}])
@pytest.mark.parametrize("token", ["secret", ""])
def test_changes_need_the_token(kit: Any, headers: dict[str, str], token: str) -> None:
    async def use(client: Any, router: Any) -> list[int]:
        patched = await client.patch("/v1/strategy/params", json={"tail": 0.2}, headers=headers)
        put = await client.put("/v1/strategy", content=b"x", headers=headers)
        return [patched.status_code, put.status_code]

    assert serve(kit, "balanced", use, admin_token=token) == [401, 401]


# --- adapt -------------------------------------------------------------------------------------------


def test_adapt_follows_what_the_router_measures(kit: Any) -> None:
    """Prefill work waits on one pool: the tail that the other takes over grows, and stops."""
    text = (SHIPPED / "adaptive.mserve").read_text("utf-8").replace("every 5s", "every 20ms")

    async def main() -> tuple[float, float]:
        cluster = kit.cluster("prefill-0", "decode-0")
        strategy = compile_strategy(check_text(text))
        router = kit.router(cluster, strategy)
        async with kit.serving(router):
            await asyncio.sleep(0.1)
            before = strategy.values["tail"]
            router.reservations.of("prefill-0").prefill_ns = 4_000_000_000
            await kit.until(lambda: strategy.values["tail"] == 0.9)
            router.reservations.of("prefill-0").prefill_ns = 0
            router.reservations.of("decode-0").prefill_ns = 4_000_000_000
            await kit.until(lambda: strategy.values["tail"] == 0.0)
            router.reservations.of("decode-0").prefill_ns = 0
            return before, strategy.values["tail"]

    before, after = asyncio.run(main())
    assert before == pytest.approx(0.1)
    assert after == 0.0


def test_a_swapped_strategy_adapts_and_the_old_one_no_more(kit: Any) -> None:
    text = (SHIPPED / "adaptive.mserve").read_text("utf-8").replace("every 5s", "every 20ms")

    async def use(client: Any, router: Any) -> tuple[float, float]:
        router.reservations.of("prefill-0").prefill_ns = 4_000_000_000
        old = router.strategy.current
        swapped = await client.put("/v1/strategy", content=text, headers=HEADERS)
        assert swapped.status_code == 200, swapped.text
        new = router.strategy.current
        await kit.until(lambda: new.values["tail"] == 0.9)
        router.reservations.of("prefill-0").prefill_ns = 0
        return old.values["tail"], new.values["tail"]

    assert serve(kit, "adaptive", use) == (pytest.approx(0.1), 0.9)
