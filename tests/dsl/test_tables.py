"""Saved parse tables are used only if they are whole, and never needed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mserve.dsl.tables import (
    build_parser,
    grammar_text,
    load_parser,
    read_saved,
    saved_path,
    write_saved,
)

_TEXT = 'strategy s "t"\nlet x = argmin(load(w) for w in p where not a < 5s)'


def test_loaded_tables_parse_as_built_ones(tmp_path: Path) -> None:
    built = build_parser(grammar_text())
    write_saved(tmp_path / "folder" / "a.tables", built)
    loaded = read_saved(tmp_path / "folder" / "a.tables")
    assert loaded is not None
    assert loaded.parse(_TEXT, start="start") == built.parse(_TEXT, start="start")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["a.tables"]


def test_tables_that_are_not_whole_are_not_used(tmp_path: Path) -> None:
    path = tmp_path / "a.tables"
    assert read_saved(path) is None
    write_saved(path, load_parser())
    whole = path.read_bytes()
    for broken in (b"", whole[:40], whole[:-1], whole[:-1] + b"x"):
        path.write_bytes(broken)
        assert read_saved(path) is None


def test_another_grammar_has_other_tables() -> None:
    assert saved_path("start: A") != saved_path("start: B")


@pytest.mark.parametrize("cache", ["cache", "a file/not a folder"])
def test_a_first_run_works_wherever_the_cache_is(tmp_path: Path, cache: str) -> None:
    (tmp_path / "a file").touch()
    program = "from mserve.dsl.check import check_text; print(len(check_text('x').diagnostics))"
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / cache)}
    for _ in range(2):
        result = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True
        )
        assert (result.stdout, result.stderr) == ("1\n", "")
    assert len(list((tmp_path / "cache").rglob("*.tables"))) == (cache == "cache")
