"""`mserve fmt`, `mserve explain` and `mserve check --fix` on files: what is written, said, returned."""

import io
from pathlib import Path

import pytest

from mserve.dsl.rules import RULES, page_of
from mserve.runtime.cli import main

_UNTIDY = b'strategy a "b"\npool  workers\nroute all{generate on next( workers )}\n'
_TIDY = b'strategy a "b"\npool workers\nroute all { generate on next(workers) }\n'

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def untidy(tmp_path: Path) -> Path:
    path = tmp_path / "untidy.mserve"
    path.write_bytes(_UNTIDY)
    return path


def test_fmt_writes_the_canonical_form(untidy: Path, capsys: Capture) -> None:
    assert main(["fmt", str(untidy)]) == 0
    assert untidy.read_bytes() == _TIDY
    assert capsys.readouterr().out == f"reformatted {untidy}\n"
    assert main(["fmt", str(untidy)]) == 0
    assert capsys.readouterr().out == ""


def test_fmt_check_only_says_so(untidy: Path, capsys: Capture) -> None:
    assert main(["fmt", "--check", str(untidy)]) == 1
    assert untidy.read_bytes() == _UNTIDY
    assert capsys.readouterr().out == f"would reformat {untidy}\n"
    untidy.write_bytes(_TIDY)
    assert main(["fmt", "--check", str(untidy)]) == 0


def test_fmt_diff_only_shows(untidy: Path, capsys: Capture) -> None:
    assert main(["fmt", "--diff", str(untidy)]) == 1
    assert untidy.read_bytes() == _UNTIDY
    shown = capsys.readouterr().out
    assert "-pool  workers\n" in shown
    assert "+route all { generate on next(workers) }\n" in shown


def test_fmt_leaves_what_it_cannot_read(tmp_path: Path, untidy: Path, capsys: Capture) -> None:
    broken = tmp_path / "broken.mserve"
    broken.write_bytes(b'strategy a "b"\nlet  x 5\n')
    assert main(["fmt", str(broken), str(untidy)]) == 1
    assert broken.read_bytes() == b'strategy a "b"\nlet  x 5\n'
    assert untidy.read_bytes() == _TIDY
    assert "error[syntax]" in capsys.readouterr().err


def test_fmt_of_stdin(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(_UNTIDY)))
    assert main(["fmt", "-"]) == 0
    assert capsys.readouterr().out == _TIDY.decode()


def test_fmt_makes_newlines_of_other_line_ends(untidy: Path) -> None:
    untidy.write_bytes(_TIDY.replace(b"\n", b"\r\n"))
    assert main(["fmt", "--check", str(untidy)]) == 1
    assert main(["fmt", str(untidy)]) == 0
    assert untidy.read_bytes() == _TIDY


@pytest.mark.parametrize("command", [["fmt"], ["check", "--fix"]])
def test_a_missing_file_is_a_mistake_of_usage(command: list[str], capsys: Capture) -> None:
    assert main([*command, "nowhere.mserve"]) == 2
    assert "nowhere.mserve cannot be read" in capsys.readouterr().err


def test_explain_shows_a_page(capsys: Capture) -> None:
    assert main(["explain", "unit-mismatch"]) == 0
    assert page_of("unit-mismatch") in capsys.readouterr().out


def test_explain_lists_all_rules(capsys: Capture) -> None:
    assert main(["explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(RULES)
    assert all(line.endswith(".") for line in lines)


def test_explain_of_an_unknown_rule(capsys: Capture) -> None:
    assert main(["explain", "unit-missmatch"]) == 2
    assert "Did you mean 'unit-mismatch'?" in capsys.readouterr().err
    assert main(["explain", "nothing-like-it"]) == 2
    assert "lists all" in capsys.readouterr().err


def test_check_fix_writes_and_says_what(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "broken.mserve"
    mark = b"\xef\xbb\xbf"
    path.write_bytes(mark + _TIDY.replace(b"generate", b"genrate").replace(b"next", b"nxt"))
    assert main(["check", "--fix", str(path)]) == 0
    assert path.read_bytes() == mark + _TIDY
    said = capsys.readouterr()
    assert said.out == ""
    assert f"{path}:3:13: fixed[syntax] `genrate` -> `generate`\n" in said.err


def test_check_fix_reports_what_is_left(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "broken.mserve"
    path.write_bytes(_TIDY.replace(b"generate", b"genrate") + b"route b { generate on workers }\n")
    assert main(["check", "--fix", "--format", "concise", str(path)]) == 1
    said = capsys.readouterr()
    assert "fixed[syntax]" in said.err
    assert f"{path}:4:23: error[wrong-type]" in said.out
