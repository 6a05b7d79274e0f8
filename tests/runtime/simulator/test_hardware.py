"""The tables that ship are whole, and other tables are checked."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from mserve.runtime.config import shipped_model
from mserve.runtime.errors import ConfigError
from mserve.runtime.simulator.hardware import load_hardware, model_shape

TABLES = (files("mserve.runtime.simulator") / "hardware.toml").read_text()


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("llama-3.1-8b", 8.03),
        ("llama-3.1-70b", 70.55),
        ("qwen3-8b", 8.19),
        ("qwen3-32b", 32.76),
        ("mistral-7b", 7.25),
    ],
)
def test_models_have_as_many_weights_as_their_cards_say(name: str, billions: float) -> None:
    num_weights = load_hardware().model(name).num_weights
    assert num_weights / 1e9 == pytest.approx(billions, rel=0.002)


def test_the_gpus_that_ship() -> None:
    hardware = load_hardware()
    assert list(hardware.gpus) == ["h200", "h100", "a100", "l40s", "a6000"]
    assert hardware.gpu("h200").memory_gb_per_s == 4800
    assert hardware.gpu("a100").fp8_tflops is None


def test_names_in_any_case() -> None:
    hardware = load_hardware()
    assert hardware.gpu("H100") is hardware.gpu("h100")
    assert hardware.format("FP8") is hardware.format("fp8")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("meta-llama/Llama-3.1-8B", "llama-3.1-8b"),
        ("Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("META-LLAMA/meta-llama-3.1-70b-instruct", "llama-3.1-70b"),
        ("somebody/Qwen3-8B", "qwen3-8b"),
        ("Qwen/Qwen3-32B", "qwen3-32b"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b"),
    ],
)
def test_models_by_their_names_at_hugging_face(name: str, key: str) -> None:
    hardware = load_hardware()
    assert hardware.model(name) is hardware.model(key)


@pytest.mark.parametrize("name", ["h1000", "H20", "b200"])
def test_another_gpu_is_no_misspelled_one(name: str) -> None:
    listed = r"known are h200, h100, a100, l40s, a6000\. .* table of your own with --hardware"
    with pytest.raises(ConfigError, match=f"There is no GPU '{name}'; {listed}"):
        load_hardware().gpu(name)


def test_a_misspelled_name_is_mended() -> None:
    with pytest.raises(ConfigError, match=r"no model 'lama-3.1-8b'; did you mean 'llama-3.1-8b'"):
        load_hardware().model("lama-3.1-8b")
    with pytest.raises(
        ConfigError,
        match=r"no model 'qwen3-235b'; known are .*qwen.* its folder with config.json, or",
    ):
        load_hardware().model("qwen3-235b")
    with pytest.raises(ConfigError, match=r"no weight format 'int4'; known are bf16, fp8\."):
        load_hardware().format("int4")


def test_a_model_folder_has_a_shape_too() -> None:
    shape = load_hardware().model(str(shipped_model()))
    assert shape == model_shape(shipped_model())
    assert shape.num_weights == pytest.approx(4e6, rel=0.5)


def test_tables_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(TABLES.replace("[gpus.h200]", "[gpus.mine]"))
    assert load_hardware(path).gpu("mine") == load_hardware().gpu("h200")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("memory_gb = 141", "memory_gb = -1", r"Expected float > 0.0 - at gpus\[...\].memory_gb"),
        ("memory_gb = 141", "", r"missing required field memory_gb - at gpus\[...\]"),
        ("usd_per_hour", "euro_per_hour", "unknown field euro_per_hour"),
        ("\n[software]", "\n[software", "is not TOML"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(
    tmp_path: Path, old: str, new: str, problem: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(TABLES.replace(old, new, 1))
    with pytest.raises(ConfigError, match=problem):
        load_hardware(path)


def test_a_missing_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_hardware(tmp_path / "none.toml")


def test_prices_of_steps_need_no_torch() -> None:
    program = "import mserve.runtime.simulator.step_cost, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
