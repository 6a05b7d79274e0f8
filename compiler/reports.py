"""`mserve test`: the results of tests in strategies, as text for people, JSON, or JUnit XML for CI.

A failure is shown with what was expected and got, the bindings and the plan. Runs nothing itself.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from mserve.compiler.explain import PlanRequest, decision_text
from mserve.compiler.givens import GivenError
from mserve.compiler.pipeline import CompiledStrategy
from mserve.compiler.testing import TestResult, run_tests, untested_routes

_INDENT = " " * 8
_NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class FileReport:
    """One file: its tests' results, or why it has none because it has errors."""

    path: str
    strategy: CompiledStrategy | None
    results: tuple[TestResult, ...] = ()
    untested: tuple[str, ...] | None = None  # routes; None where nobody asked
    errors: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        good = self.strategy is not None and all(result.passed for result in self.results)
        return good and not self.untested


def report_of(path: str, strategy: CompiledStrategy, *, coverage: bool) -> FileReport:
    results = run_tests(strategy)
    untested = untested_routes(strategy, results) if coverage else None
    return FileReport(path, strategy, tuple(results), untested)


def render_reports(reports: Sequence[FileReport], style: str) -> str:
    """`style` is text, json or junit."""
    return {"text": _text, "json": _json, "junit": _junit}[style](reports)


def details(strategy: CompiledStrategy, result: TestResult) -> str:
    """The decision in the test's situation and its plan as `mserve plan` shows them, without times; a
    sentence if there is none."""
    source, test = strategy.checked.source, result.test
    cluster = [source.slice(size.span) for size in test.cluster]
    if not cluster:  # said aloud: a situation, not every route over symbols
        cluster = [f"{pool.name} = {pool.workers}" for pool in strategy.pools]
    asked = PlanRequest(cluster, [source.slice(given.span) for given in test.givens])
    try:
        return decision_text(strategy, asked)
    except GivenError as error:
        return f"{error}\n"


def _line(strategy: CompiledStrategy, result: TestResult) -> int:
    return strategy.checked.source.position(result.test.span.start).line


# --- text --------------------------------------------------------------------------------------


def _text(reports: Sequence[FileReport]) -> str:
    lines = [line for report in reports for line in _file_lines(report)]
    return "\n".join([*lines, _summary(reports)]) + "\n"


def _file_lines(report: FileReport) -> Iterator[str]:
    yield report.path
    if report.strategy is None:
        yield f"  FAIL  it has {_counted(len(report.errors), 'error')}, so that nothing was run"
        yield from (f"{_INDENT}{error}" for error in report.errors)
    else:
        for result in report.results:
            yield from _result_lines(report.strategy, result)
    for route in report.untested or ():
        yield f"  FAIL  no test reaches route {route}"
    yield ""


def _result_lines(strategy: CompiledStrategy, result: TestResult) -> Iterator[str]:
    if result.passed:
        yield f"  ok    {result.title}"
        return
    yield f"  FAIL  {result.title} (line {_line(strategy, result)})"
    yield from (f"{_INDENT}{failure}" for failure in result.failures)
    for name, value in result.bindings.items():
        if name in result.asked:  # the decision shows the others
            yield f"{_INDENT}where {name} = {strategy.spell(name, value)}"
    shown = details(strategy, result)
    if shown.strip() not in result.failures:
        yield ""
        yield from (f"{_INDENT}{line}".rstrip() for line in shown.splitlines())
    yield ""


def _summary(reports: Sequence[FileReport]) -> str:
    results = [result for report in reports for result in report.results]
    failed = sum(1 for result in results if not result.passed)
    words = [f"{_counted(len(results), 'test')} in {_counted(len(reports), 'file')}"]
    words.append(f"{failed} failed" if failed else "all passed" if results else "none to run")
    broken = sum(1 for report in reports if report.strategy is None)
    if broken:
        words.append(f"{_counted(broken, 'file')} with errors")
    if any(report.untested is not None for report in reports):
        untested = sum(len(report.untested or ()) for report in reports)
        words.append(
            f"{_counted(untested, 'route')} untested" if untested else "every route reached"
        )
    return ", ".join(words)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


# --- JSON --------------------------------------------------------------------------------------


def _json(reports: Sequence[FileReport]) -> str:
    return json.dumps({"files": [_file_data(report) for report in reports]}, indent=2) + "\n"


def _file_data(report: FileReport) -> dict[str, object]:
    strategy = report.strategy
    data: dict[str, object] = {"path": report.path, "passed": report.passed}
    if strategy is None:
        return {**data, "errors": list(report.errors)}
    data["strategy"] = strategy.name
    data["tests"] = [_result_data(strategy, result) for result in report.results]
    if report.untested is not None:
        data["untested_routes"] = list(report.untested)
    return data


def _result_data(strategy: CompiledStrategy, result: TestResult) -> dict[str, object]:
    return {
        "title": result.title,
        "line": _line(strategy, result),
        "passed": result.passed,
        "failures": list(result.failures),
        "route": result.decision.plan.route if result.decision else None,
        "bindings": {name: strategy.spell(name, each) for name, each in result.bindings.items()},
    }


# --- JUnit -------------------------------------------------------------------------------------


def _junit(reports: Sequence[FileReport]) -> str:
    """The form that CI systems read: a suite per file; a route no test reaches is a failed case."""
    root = ET.Element("testsuites", name="mserve test")
    for report in reports:
        _add_suite(root, report)
    for counted in ("tests", "failures", "errors"):
        root.set(counted, str(sum(int(suite.get(counted, "0")) for suite in root)))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def _add_suite(root: ET.Element, report: FileReport) -> None:
    name = report.strategy.name if report.strategy else report.path
    suite = ET.SubElement(root, "testsuite", name=_xml(name), file=_xml(report.path))
    if report.strategy is None:
        problem = ET.SubElement(_case(suite, report, "compiles"), "error")
        problem.set("message", _counted(len(report.errors), "error"))
        problem.text = _xml("\n".join(report.errors))
    else:
        for result in report.results:
            _add_result(suite, report, report.strategy, result)
    for route in report.untested or ():
        failure = ET.SubElement(_case(suite, report, f"route {route} is reached"), "failure")
        failure.set("message", f"no test reaches route {route}")
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", str(len(suite.findall("testcase/error"))))


def _add_result(
    suite: ET.Element, report: FileReport, strategy: CompiledStrategy, result: TestResult
) -> None:
    case = _case(suite, report, result.title)
    case.set("line", str(_line(strategy, result)))
    if not result.passed:
        failure = ET.SubElement(case, "failure", message=_xml("; ".join(result.failures)))
        failure.text = _xml("\n".join(result.failures) + "\n\n" + details(strategy, result))


def _case(suite: ET.Element, report: FileReport, name: str) -> ET.Element:
    owner = report.strategy.name if report.strategy else report.path
    return ET.SubElement(suite, "testcase", name=_xml(name), classname=_xml(owner), time="0")


def _xml(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)
