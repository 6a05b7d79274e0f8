"""What commands that measure show and write, beyond their figures."""

import io
import sys
from pathlib import Path

import pytest

from mserve.runtime.cli.output import StatusLine, check_writable, write_text
from mserve.runtime.errors import ConfigError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_one_line_that_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with StatusLine() as line:
        line.show("1 of 2")
        line.show("2 of 2")
    assert terminal.getvalue() == "\r1 of 2\x1b[K\r2 of 2\x1b[K\r\x1b[K"


def test_a_file_gets_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with StatusLine() as line:
        line.show("1 of 2")
    assert capsys.readouterr().err == ""


def test_what_cannot_be_written_is_said_before_the_work_and_after(tmp_path: Path) -> None:
    check_writable(tmp_path / "out.json")
    for path in (tmp_path, tmp_path / "none" / "out.json"):
        with pytest.raises(ConfigError, match="cannot be written: name a file"):
            check_writable(path)
        with pytest.raises(ConfigError, match=r"cannot be written: (Is a|No such)"):
            write_text(path, "{}")
