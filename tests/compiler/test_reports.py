"""`mserve test`: what people, programs and CI systems get to see, and exit codes."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from mserve.compiler.pipeline import compile_strategy
from mserve.compiler.reports import FileReport, render_reports, report_of
from mserve.dsl.check import check_text

TEXT = """\
strategy some "x < y & z"
pool workers
let quiet = argmin(load(w) for w in workers)
route long when tokens(prompt) > 2000 { generate on quiet }
route short { generate on next(workers) }
test "holds" { expect route short }
"""
FAILING = (
    TEXT
    + """\
test "fails & <so>\x01" {
  cluster workers = 2
  given load(workers[0]) = 5s, tokens(prompt) = 1999
  expect route long
  expect quiet = workers[0]
}
"""
)


def report(text: str, path: str = "some.mserve", *, coverage: bool = False) -> FileReport:
    return report_of(path, compile_strategy(check_text(text, path)), coverage=coverage)


def test_a_failure_shows_expected_and_got_bindings_and_plan() -> None:
    text = render_reports([report(TEXT), report(FAILING, "b.mserve")], "text")
    lines = [line.strip() for line in text.splitlines()]
    assert lines.count("ok    holds") == 2
    assert "FAIL  fails & <so>\x01 (line 7)" in lines
    assert "expected route long, got short" in lines
    assert "expected quiet = workers[0], got workers[1]" in lines
    assert "where quiet = workers[1]" in lines
    assert "plan of route short" in lines
    assert any("start_generate" in line and "[0, 1999)" in line for line in lines)
    assert lines[-1] == "3 tests in 2 files, 1 failed"


def test_coverage_names_the_routes_no_test_reaches() -> None:
    partly = report(TEXT, coverage=True)
    assert not partly.passed
    text = render_reports([partly], "text")
    assert "  FAIL  no test reaches route long\n" in text
    assert text.endswith("1 test in 1 file, all passed, 1 route untested\n")
    whole = report(TEXT + 'test "b" { given tokens(prompt) = 2001 }', coverage=True)
    assert whole.passed
    assert render_reports([whole], "text").endswith("every route reached\n")
    assert report(TEXT).passed  # nobody asked


def test_a_situation_that_makes_no_sense_is_a_sentence() -> None:
    text = TEXT + 'test "odd" { given tokens(prompt) = 1.5 }'
    shown = render_reports([report(text)], "text")
    assert "a prompt has a whole number of tokens, at least one" in shown


def test_json() -> None:
    data = json.loads(render_reports([report(FAILING, coverage=True)], "json"))
    (file,) = data["files"]
    assert (file["path"], file["passed"], file["strategy"]) == ("some.mserve", False, "some")
    assert file["untested_routes"] == ["long"]
    assert [test["passed"] for test in file["tests"]] == [True, False]
    failed = file["tests"][1]
    assert failed["failures"] == [
        "expected route long, got short",
        "expected quiet = workers[0], got workers[1]",
    ]
    assert (failed["line"], failed["route"]) == (7, "short")
    assert failed["bindings"] == {"quiet": "workers[1]"}


def test_junit() -> None:
    broken = FileReport("c.mserve", None, errors=("it has errors",))
    reports = [report(TEXT, "a.mserve"), report(FAILING, "b.mserve", coverage=True), broken]
    root = ET.fromstring(render_reports(reports, "junit"))
    assert root.tag == "testsuites"
    totals = {name: root.get(name) for name in ("tests", "failures", "errors")}
    assert totals == {"tests": "5", "failures": "2", "errors": "1"}
    assert [suite.get("file") for suite in root] == ["a.mserve", "b.mserve", "c.mserve"]
    cases = root.findall("testsuite[@file='b.mserve']/testcase")
    assert [(case.get("name"), case.find("failure") is not None) for case in cases] == [
        ("holds", False),
        ("fails & <so>\N{REPLACEMENT CHARACTER}", True),
        ("route long is reached", True),
    ]
    failure = cases[1].find("failure")
    assert failure is not None
    assert failure.text is not None
    assert "plan of route short" in failure.text
    for suite in root:
        assert suite.get("tests") == str(len(suite.findall("testcase")))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mserve", "test", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("files", "code"),
    [
        (("good",), 0),
        (("balanced", "good"), 0),
        (("good", "--coverage"), 1),
        (("balanced", "failing"), 1),
        (("broken", "good"), 1),
        (("missing",), 2),
        ((), 2),
        (("good", "--format", "xml"), 2),
    ],
)
def test_exit_codes(tmp_path: Path, files: tuple[str, ...], code: int) -> None:
    texts = {"good": TEXT, "failing": FAILING, "broken": "strategy broken"}
    for name, text in texts.items():
        (tmp_path / f"{name}.mserve").write_text(text)
    num_files = sum(name in texts or name == "balanced" for name in files)
    named = [str(tmp_path / f"{name}.mserve") if name in texts else name for name in files]
    done = run(*named)
    assert done.returncode == code, done.stderr
    if code < 2:
        assert f"in {num_files} file{'s' * (num_files > 1)}" in done.stdout
