"""Who may ask a router, and that tenants cannot see each other's cache."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from mserve.runtime.blocks import block_keys
from mserve.runtime.errors import ConfigError
from mserve.runtime.router.gate import cache_salt
from mserve.runtime.router.keys import ApiKey, KeyFile, new_key, parse_keys

Client = httpx.AsyncClient
ADMIN = "the-operators-token"


class Keys:
    """A file with keys of two tenants."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.alice, alice = new_key("alice")
        self.anna, anna = new_key("anna")
        self.bob, self.bobs_line = new_key("bob")
        self.lines = [f"{alice} tenant=a", f"{anna} tenant=a", f"{self.bobs_line} max_requests=1"]
        self.write()

    def write(self) -> None:
        self.path.write_text("# keys\n\n" + "\n".join(self.lines) + "\n")


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def calls_of(cluster: Any) -> Any:
    return cluster.workers["workers-0"].calls


def serve(kit: Any, keys: Keys, use: Callable[[Client, Any], Awaitable[Any]]) -> Any:
    return kit.serve(
        lambda client, cluster, _: use(client, cluster),
        keys=KeyFile(keys.path),
        admin_token=ADMIN,
        salt_secret=b"secret of the cluster",
    )


def ask(
    kit: Any, client: Client, key: str | None, **more: Any
) -> Coroutine[Any, Any, httpx.Response]:
    body = {"model": kit.MODEL, "prompt": "The quick brown fox", "max_tokens": 3, **more}
    headers = bearer(key) if key is not None else {}
    return client.post("/v1/completions", json=body, headers=headers)


def test_only_keys_of_the_file_are_served(kit: Any, keys: Keys) -> None:
    async def use(client: Client, cluster: Any) -> None:
        assert (await ask(kit, client, keys.alice)).status_code == 200
        stranger, line = new_key("stranger")
        for given in (None, "x", stranger, keys.alice[:-1], keys.alice + "x", line, ADMIN):
            answer = await ask(kit, client, given)
            assert answer.status_code == 401, given
            assert answer.headers["www-authenticate"].startswith("Bearer")
            error = answer.json()["error"]
            assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
            assert keys.alice not in answer.text
        raw = await client.post("/v1/completions", headers={"authorization": keys.alice})
        assert raw.status_code == 401
        assert len(calls_of(cluster)) == 1

    serve(kit, keys, use)


def test_which_pages_are_whose(kit: Any, keys: Keys) -> None:
    async def use(client: Client, cluster: Any) -> None:
        async def status(path: str, token: str = "") -> int:
            return (await client.get(path, headers=bearer(token) if token else {})).status_code

        for path in ("/health", "/ready"):
            assert await status(path) == 200
        for path in ("/v1/models", "/v1/plans", "/v1/cluster", "/metrics", "/v1/strategy", "/no"):
            assert await status(path) == 401, path
        assert await status("/v1/models", keys.bob) == 200
        for path in ("/v1/plans", "/v1/cluster", "/metrics", "/v1/strategy"):
            assert await status(path, keys.bob) == 401, path
            assert await status(path, ADMIN) == 200, path
        for path in ("/health/../v1/cluster", "/health/", "//v1/cluster", "/v1%2Fcluster"):
            assert await status(path, keys.bob) != 200, path
        plan = (await ask(kit, client, keys.bob)).headers["x-mserve-plan"].partition(";")[0]
        assert await status(f"/v1/plans/{plan}") == 401
        assert await status(f"/v1/plans/{plan}", keys.bob) == 200

    serve(kit, keys, use)


def test_a_changed_file_holds_at_once_and_a_bad_one_changes_nothing(kit: Any, keys: Keys) -> None:
    async def use(client: Client, cluster: Any) -> None:
        async def statuses() -> list[int]:
            return [(await ask(kit, client, k)).status_code for k in (keys.alice, keys.bob)]

        assert await statuses() == [200, 200]
        keys.lines.pop()  # bob's
        keys.write()
        assert await statuses() == [200, 401]
        keys.path.write_text("nonsense\n")
        assert await statuses() == [200, 401]
        keys.lines.append(keys.bobs_line)
        keys.write()
        assert await statuses() == [200, 200]
        os.unlink(keys.path)
        assert await statuses() == [200, 200]

    serve(kit, keys, use)


def test_the_key_says_the_tenant_and_its_limit(kit: Any, keys: Keys) -> None:
    async def use(client: Client, cluster: Any) -> None:
        cluster.token_delay_s = 0.01
        held = asyncio.create_task(ask(kit, client, keys.bob, max_tokens=2000, user="carol"))
        await kit.until(lambda: bool(calls_of(cluster)))
        refused = await ask(kit, client, keys.bob, user="somebody else")
        assert refused.status_code == 429
        assert "'bob' has 1 requests" in refused.json()["error"]["message"]
        assert (await ask(kit, client, keys.alice, user="bob")).status_code == 200
        held.cancel()
        await asyncio.wait([held])

    serve(kit, keys, use)


def test_tenants_share_no_blocks(kit: Any, keys: Keys) -> None:
    async def use(client: Client, cluster: Any) -> list[bytes]:
        for key, salt in ((keys.alice, ""), (keys.anna, ""), (keys.bob, ""), (keys.bob, "a")):
            await ask(kit, client, key, cache_salt=salt or None, user="the same")
        return [call.salt for call in calls_of(cluster)]

    alice, anna, bob, bob_salted = serve(kit, keys, use)
    assert alice == anna  # of one tenant
    assert len({alice, bob, bob_salted}) == 3
    tokens = bytes(4 * 64)
    assert not {*block_keys(tokens, 16, alice)} & {*block_keys(tokens, 16, bob)}


def test_no_salt_of_a_request_leads_to_another_tenant() -> None:
    one, other = (ApiKey(name, b"", name) for name in ("a", "ab"))
    asked = ("", "a", "b", "\n", "a\n", "b\nb", cache_salt(b"s", other, "").decode("latin-1"))
    salts = {cache_salt(b"s", key, text) for key in (one, other) for text in asked}
    assert len(salts) == 2 * len(asked)
    assert cache_salt(b"s", one, "") != cache_salt(b"another cluster", one, "")
    assert cache_salt(b"s", None, "as before") == b"as before"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("alice", "a line is"),
        ("alice mserve-secret", "never a key itself"),
        ("alice sha256:12", "64 hex digits"),
        ("al/ice sha256:" + "0" * 64, "a line is"),
        ("alice sha256:" + "0" * 64 + " tenants=a", "'tenants' is unknown"),
        ("alice sha256:" + "0" * 64 + " max_requests=0", "number from 1"),
        ("alice sha256:" + "0" * 64 + " tenant=", "not `name=value`"),
        ("b sha256:" + "0" * 64 + "\nb sha256:" + "1" * 64, "keys:2: .*above already"),
    ],
)
def test_malformed_files_are_named_with_their_line(line: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_keys(line, "keys")


def test_a_file_that_lets_nobody_in_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        KeyFile(tmp_path / "none")
    (tmp_path / "empty").write_text("# nobody\n")
    with pytest.raises(ConfigError, match="has no key"):
        KeyFile(tmp_path / "empty")


def test_a_key_reads_the_plans_of_its_own_tenant_only(kit: Any, keys: Keys) -> None:
    async def use(client: Client, cluster: Any) -> list[int]:
        answer = await ask(kit, client, keys.alice)
        plan_id = answer.headers["x-mserve-plan"].partition(";")[0]
        of = f"/v1/plans/of/{answer.headers['x-request-id']}"
        return [
            (await client.get(path, headers=bearer(key))).status_code
            for path in (f"/v1/plans/{plan_id}", of)
            for key in (keys.alice, keys.anna, keys.bob, ADMIN)
        ]

    assert serve(kit, keys, use) == [200, 200, 404, 200] * 2


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["a sha256:{0}", "b sha256:{0}"], "keys:2: this is the key of 'a' above"),
        (["a sha256:{0} tenant=x tenant=y"], "keys:1: an option stands twice"),
    ],
)
def test_what_would_be_taken_silently_is_refused(lines: list[str], says: str) -> None:
    text = "\n".join(lines).format("0" * 64)
    with pytest.raises(ConfigError, match=says):
        parse_keys(text, "keys")
