"""What `mserve bench` says of a command line before it sends anything."""

import json
from pathlib import Path

import pytest

from mserve.runtime import cli
from mserve.runtime.cli.bench import THIS_RUN, _earlier_runs


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate", "0"], "--rate must be above 0"),
        (["--scale", "-1"], "--scale must be above 0"),
        (["--rate", "2", "--speed", "2"], "give one of them"),
        (["--rate", "2", "--concurrency", "2"], "so --rate has no meaning"),
        (["--slo", "tftt=1s"], "did you mean ttft"),
        (["--duration", "soon"], "--duration takes a duration"),
        (["--timeout", "0s"], "--timeout must be above 0"),
        (["--duration", "60"], "--duration: 60 what? Write 60ms or 60s"),
        (["--vocab", "9..3"], "--vocab takes LOW..HIGH"),
        (["--json", "/does/not/exist.json"], "cannot be written"),
        (["--against", "/does/not/exist.json"], "is no run that --json wrote"),
        ([], "No server answers at http://127.0.0.1:1"),
    ],
)
def test_mistakes(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "http://127.0.0.1:1", *arguments]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_a_report_that_would_replace_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "http://127.0.0.1:1", "--html", str(tmp_path)]) == 2
    assert "cannot be written" in capsys.readouterr().err


def saved(path: Path, num_output: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    outcome = {"arrival_s": 0, "first_token_s": 1, "ended_s": 2, "num_prompt": 3}
    path.write_text(json.dumps({"outcomes": [{**outcome, "num_output": num_output}]}))
    return path


def test_earlier_runs_are_named_apart(tmp_path: Path) -> None:
    first, second = saved(tmp_path / "a" / "run.json", 1), saved(tmp_path / "b" / "run.json", 2)
    other, this = saved(tmp_path / "other.json", 3), saved(tmp_path / f"{THIS_RUN}.json", 4)
    found = _earlier_runs([first, second, other, this, other])
    assert {name: run.outcomes[0].num_output for name, run in found.items()} == {
        str(first): 1,
        str(second): 2,
        "other": 3,
        str(this): 4,
    }
