"""The front end's entry: what it promises whatever the rules are."""

import gc
import subprocess
import sys

import pytest

from mserve.dsl.check import check_bytes, check_text
from mserve.dsl.diagnostics import Severity
from mserve.dsl.syntax import Span

_CLEAN = 'strategy s "t"\npool workers\nroute all { generate on next(workers) }\n'


def test_a_clean_strategy_has_a_tree_and_no_diagnostics() -> None:
    checked = check_text(_CLEAN, "a.mserve")
    assert checked.strategy is not None
    assert checked.diagnostics == ()
    assert checked.source.path == "a.mserve"


def test_warnings_leave_the_tree() -> None:
    checked = check_text(_CLEAN + "let spare = 5\n")
    assert checked.strategy is not None
    assert [each.severity for each in checked.diagnostics] == [Severity.WARNING]


def test_all_problems_are_reported_in_text_order() -> None:
    checked = check_text(
        _CLEAN + "let a = nothing\nlet b 5\nroute c when 5 { generate on workers }\n"
    )
    assert checked.strategy is None
    starts = [each.span.start for each in checked.diagnostics]
    assert starts == sorted(starts)
    assert [each.rule for each in checked.diagnostics] == [
        "unknown-name",
        "syntax",
        "wrong-type",
        "wrong-type",
    ]


def test_what_could_not_be_read_is_not_unknown() -> None:
    checked = check_text(_CLEAN + "let a 5\nroute b when a > 5 { generate on workers[0] }\n")
    assert [each.rule for each in checked.diagnostics] == ["syntax", "not-available-here"]


def test_bytes_that_are_not_utf8_are_a_problem_of_form() -> None:
    checked = check_bytes(_CLEAN.encode() + b"# caf\xe9\n")
    (problem,) = checked.diagnostics
    assert (problem.rule, problem.span) == ("syntax", Span(len(_CLEAN) + 5, len(_CLEAN) + 6))
    assert checked.strategy is None


def test_long_chains_of_bindings_are_too_expensive_and_no_problem_to_check() -> None:
    """Nothing follows bindings by recursion, in whichever order they stand."""
    lets = [f"let x{number} = x{number - 1} + 1\n" for number in range(1, 2000)]
    use = "route b when x1999 > 5000 { generate on next(workers) }\nroute c { generate on next(workers) }\n"
    text = _CLEAN.replace("route all", "route all when x1 > 2") + "let x0 = tokens(prompt)\n" + use
    for ordered in (lets, lets[::-1]):
        found = check_text(text + "".join(ordered)).diagnostics
        assert [each.rule for each in found] == ["too-expensive"]


def test_checking_needs_neither_the_compiler_nor_pydantic() -> None:
    program = (
        "import sys, mserve.dsl.check, mserve.dsl.render;"
        "print([name for name in sys.modules if name.startswith(('pydantic', 'torch',"
        " 'mserve.compiler', 'mserve.runtime'))])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


@pytest.mark.parametrize("collecting", [True, False])
def test_the_collector_is_as_it_was(collecting: bool) -> None:
    before = gc.isenabled()
    (gc.enable if collecting else gc.disable)()
    try:
        check_text("strategy broken")
        assert gc.isenabled() is collecting
    finally:
        (gc.enable if before else gc.disable)()


def test_bytes_that_are_not_utf8_are_reported_once() -> None:
    for text in (b'strategy caf\xe9 "t"', b'strategy a "caf\xe9"', b"# caf\xe9"):
        found = check_bytes(text).diagnostics
        assert sum("UTF-8" in each.message for each in found) == 1


def test_an_empty_file_is_shown_a_strategy() -> None:
    (found,) = check_text("# nothing yet\n").diagnostics
    shown = found.help.partition("`")[2].rstrip("`")
    assert check_text(shown).diagnostics == ()


def test_a_comment_of_another_language_in_the_first_line() -> None:
    checked = check_text(
        '// in the manner of C\nstrategy a "x"\npool w\nroute r { generate on next(w) }'
    )
    assert checked.diagnostics[0].message == "a comment begins with `#`"
