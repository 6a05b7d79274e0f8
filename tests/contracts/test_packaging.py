"""What is built and installed is the whole package: code, grammar, strategies, small model."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXPECTED = {
    "mserve/__init__.py",
    "mserve/__main__.py",
    "mserve/py.typed",
    "mserve/dsl/check.py",
    "mserve/compiler/plan.py",
    "mserve/runtime/cli/language.py",
    "mserve/runtime/engine/models/llama.py",
    "mserve/runtime/router/executor.py",
    "mserve/grammars/mserve.lark",
    "mserve/strategies/balanced.mserve",
    "mserve/model/config.json",
    "mserve/model/model.safetensors",
    "mserve/model/tokenizer.json",
}
MAX_MODEL_BYTES = 8_000_000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel and an sdist, built from what git would ship."""
    out = tmp_path_factory.mktemp("dist")
    argv = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def test_the_wheel_holds_everything_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {info.filename: info.file_size for info in archive.infolist()}
    assert names.keys() >= EXPECTED
    code = {name for name in names if not name.startswith("mserve-")}
    assert all(name.startswith("mserve/") for name in code)
    assert not [name for name in code if "/tests/" in name or "__pycache__" in name]
    sources = {f"mserve/{path}" for path in _sources()}
    assert sources <= code
    model = sum(size for name, size in names.items() if name.startswith("mserve/model/"))
    assert model <= MAX_MODEL_BYTES


def test_the_sdist_can_build_the_wheel_again(built: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    argv = [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert set(archive.namelist()) >= EXPECTED


def test_the_command_is_installed() -> None:
    command = Path(sys.executable).with_name("mserve")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mserve 0.")
    help_text = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
    for name in ("check", "plan", "serve", "router", "worker", "demo"):
        assert name in help_text.stdout


def _sources() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "dsl", "compiler", "runtime", "grammars", "strategies"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    kinds = (".py", ".lark", ".mserve")
    return [n for n in listed.stdout.split() if n.endswith(kinds) and (ROOT / n).exists()]
