"""What `mserve bench` says of a command line before it sends anything."""

from pathlib import Path

import pytest

from mserve.runtime import cli


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate", "0"], "--rate must be above 0"),
        (["--scale", "-1"], "--scale must be above 0"),
        (["--rate", "2", "--speed", "2"], "give one of them"),
        (["--rate", "2", "--concurrency", "2"], "so --rate has no meaning"),
        (["--slo", "tftt=1s"], "did you mean ttft"),
        (["--duration", "soon"], "--duration takes a duration"),
        (["--timeout", "0s"], "--timeout takes a duration"),
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
