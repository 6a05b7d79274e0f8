"""A pool's settings reach its engines: KV that left the device comes back from host memory."""

from pathlib import Path
from typing import Any

STRATEGY = """strategy hosted "KV in two tiers"

pool workers { {settings} }

route all {
  generate on next(workers)
}
"""


def answers(serve: Any, tmp_path: Path, settings: str) -> list[Any]:
    """Usage of a long prompt, of others that need all pages, and of the first again."""
    path = tmp_path / "hosted.mserve"
    path.write_text(STRATEGY.replace("{settings}", settings), "utf-8")
    prompts = [[10 + number] * 600 for number in (0, 1, 2, 0)]
    with serve(str(path), "--kv-memory", "3MiB") as server:
        found = []
        for prompt in prompts:
            body = {"model": "mserve-tiny", "prompt": prompt, "max_tokens": 4, "temperature": 0}
            status, answer, _ = server.ask("/v1/completions", body)
            assert status == 200, answer
            found.append(answer)
        return found


def test_a_prompt_comes_back_from_host_memory(serve: Any, tmp_path: Path) -> None:
    first, *_, again = answers(serve, tmp_path, "host_cache = 16MiB")
    assert again["choices"] == first["choices"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] >= 590


def test_without_host_memory_it_is_computed_again(serve: Any, tmp_path: Path) -> None:
    first, *_, again = answers(serve, tmp_path, "queue = priority")
    assert again["choices"] == first["choices"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] < 300


def test_nothing_is_kept(serve: Any, tmp_path: Path) -> None:
    for answer in answers(serve, tmp_path, "prefix_cache = none"):
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
