"""A cluster with keys, signed calls and TLS, in real processes."""

import http.client
import json
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mserve.runtime.router.keys import new_key

PROMPT = "The little girl opened the door and went into the garden. " * 10


@dataclass
class Site:
    url: str
    tls: ssl.SSLContext
    keys: dict[str, str]

    def ask(self, path: str, token: str, body: Any = None) -> tuple[int, Any]:
        netloc = urlsplit(self.url).netloc
        with closing(http.client.HTTPSConnection(netloc, timeout=30, context=self.tls)) as line:
            headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
            line.request("POST" if body else "GET", path, body and json.dumps(body), headers)
            response = line.getresponse()
            return response.status, json.loads(response.read())

    def cached_tokens(self, name: str, **more: Any) -> int:
        body = {"model": "mserve-tiny", "prompt": PROMPT, "max_tokens": 2, **more}
        status, answer = self.ask("/v1/completions", self.keys[name], body)
        assert status == 200, answer
        cached: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        return cached


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Signed by itself, for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "cert.pem", folder / "key.pem"
    argv = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=t"
    )
    argv += f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {made}"
    subprocess.run(argv.split(), check=True, capture_output=True)
    return made, key


@pytest.fixture(scope="module")
def site(
    serve: Any, certificate: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    made = {name: new_key(name) for name in ("alice", "anna", "bob")}
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text("\n".join(f"{line} tenant={name[0]}" for name, (_, line) in made.items()))
    flags = ["--api-keys", str(file), "--cluster", "workers=1", "--kv-memory", "16MiB"]
    flags += ["--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1])]
    with serve("data_parallel", *flags, env={"MSERVE_ADMIN_TOKEN": "operator"}) as server:
        tls = ssl.create_default_context(cafile=certificate[0])
        yield Site(server.url, tls, {name: key for name, (key, _) in made.items()})


def test_a_tenant_cannot_find_anothers_prefix(site: Site) -> None:
    assert site.cached_tokens("alice") == 0
    assert site.cached_tokens("alice") > 100
    assert site.cached_tokens("anna") > 100  # of the same tenant
    assert site.cached_tokens("bob") == 0
    assert site.cached_tokens("alice", cache_salt="apart") == 0
    assert site.cached_tokens("bob", cache_salt="apart") == 0


def test_strangers_are_refused_everywhere(site: Site) -> None:
    assert site.ask("/v1/models", "stranger")[0] == 401
    assert site.ask("/v1/cluster", site.keys["bob"])[0] == 401
    status, view = site.ask("/v1/cluster", "operator")
    assert status == 200
    (worker,) = view["workers"]
    netloc = urlsplit(worker["url"]).netloc
    body = {"plan_id": "theft", "tokens": [1, 2, 3], "sampling": {"max_tokens": 1}}
    for path, sent in (("state", None), ("match", {"tokens": [1]}), ("start_generate", body)):
        with closing(http.client.HTTPConnection(netloc, timeout=10)) as line:
            line.request("POST" if sent else "GET", f"/v1/microserving/{path}", json.dumps(sent))
            assert line.getresponse().status == 401


def test_plain_http_and_unknown_certificates_are_refused(site: Site) -> None:
    with closing(http.client.HTTPConnection(urlsplit(site.url).netloc, timeout=10)) as line:
        line.request("GET", "/health")
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            line.getresponse()
    with pytest.raises(ssl.SSLCertVerificationError):
        Site(site.url, ssl.create_default_context(), {}).ask("/health", "")
