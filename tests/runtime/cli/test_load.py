"""What --load, --model and the engine's memory flags make of an engine, and what they refuse."""

import argparse
import json
from pathlib import Path

import pytest

from mserve.runtime.cli import main
from mserve.runtime.cli.serving import add_commands
from mserve.runtime.cli.serving_options import engine_options, served_folder, trust_options
from mserve.runtime.config import EngineOptions, shipped_model
from mserve.runtime.errors import ConfigError

TINY = shipped_model()


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    return parser.parse_args(words)


def worker(*words: str) -> argparse.Namespace:
    return parse("worker", "--pool", "p", "--redis", "redis://localhost", *words)


def test_a_worker_of_a_shape_has_a_folder_while_it_runs() -> None:
    with served_folder(worker("--model", "qwen3-8b", "--load", "dummy")) as folder:
        assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 36
        assert (folder / "tokenizer.json").exists()
    assert not folder.exists()


def test_a_router_takes_a_shape_as_it_is() -> None:
    arguments = parse("router", "balanced", "--redis", "redis://localhost", "--model", "qwen3-8b")
    with served_folder(arguments) as folder:
        assert folder.name == "qwen3-8b"


def test_without_a_word_the_shipped_model_is_meant() -> None:
    for words in ((), ("--load", "dummy")):
        with served_folder(worker(*words)) as folder:
            assert folder == TINY


def test_a_shape_alone_has_no_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "balanced", "--model", "llama-3.1-8b"]) == 2
    assert "give --load dummy" in capsys.readouterr().err
    assert main(["serve", "balanced", "--model", "llama-9", "--load", "dummy"]) == 2
    assert "shapes are llama-3.1-8b" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "dtype", "kv_memory_bytes"),
    [
        ((), "float32", None),
        (("--device", "cuda"), "bfloat16", None),
        (("--device", "cuda:1", "--dtype", "float16"), "float16", None),
        (("--kv-memory", "2GiB"), "float32", 2 << 30),
    ],
)
def test_numbers_and_memory_follow_the_device(
    words: tuple[str, ...], dtype: str, kv_memory_bytes: int | None
) -> None:
    options = engine_options(worker(*words))
    assert (options.dtype, options.kv_memory_bytes) == (dtype, kv_memory_bytes)


@pytest.mark.parametrize("share", [0.0, 1.01, -1.0])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(ConfigError, match="--gpu-memory-share is a share between 0 and 1"):
        EngineOptions(gpu_memory_share=share)


@pytest.mark.parametrize(("text", "patience_s"), [("20ms", 0.02), ("0", 0.0), ("1.5s", 1.5)])
def test_patience_is_a_duration(text: str, patience_s: float) -> None:
    assert engine_options(worker("--patience", text)).patience_s == pytest.approx(patience_s)


def test_patience_needs_its_unit() -> None:
    with pytest.raises(ConfigError, match=r"--patience: 0\.05 what. Write 0.05ms or 0.05s"):
        engine_options(worker("--patience", "0.05"))


def test_a_worker_has_the_defaults_of_the_options() -> None:
    assert engine_options(worker("--cost-cache", "none")) == EngineOptions()


def test_weights_are_loaded_or_made_up() -> None:
    with pytest.raises(ConfigError, match="--load takes auto, dummy, not 'random'"):
        EngineOptions(load="random")


def test_a_workers_callers_are_routers_without_keys_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The environment's keys are for the clients of a machine's router."""
    monkeypatch.setenv("MSERVE_API_KEYS_FILE", "/keys")
    router = parse("router", "balanced", "--redis", "redis://localhost")
    assert trust_options(worker()).api_keys is None
    assert trust_options(router).api_keys == Path("/keys")
    router = parse("serve", "balanced", "--api-keys", "/others")
    assert trust_options(router).api_keys == Path("/others")
