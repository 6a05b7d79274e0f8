"""Every step of a plan is traced to the lines that ask for it."""

from collections.abc import Callable

from mserve.compiler.givens import situation_from_text
from mserve.compiler.origins import find_origins
from mserve.compiler.pipeline import CompiledStrategy

Compile = Callable[[str], CompiledStrategy]

HEAD = 'strategy t "" pool a pool b pool c let x = next(a) '


def origins(strategy: CompiledStrategy, *givens: str) -> dict[str, list[str]]:
    """Of the steps of the route taken: what they come from, as written."""
    frame = situation_from_text(strategy, (), givens).frame(strategy)
    decision = strategy.decide_in(frame)
    assert decision is not None
    (route,), (written,) = strategy.routes, strategy.tree.routes
    found = find_origins(written, route.draft(frame), decision.plan)
    source = strategy.checked.source
    return {name: [source.slice(step.span) for step in steps] for name, steps in found.items()}


def test_computing_sending_and_receiving_come_from_the_range(compile_text: Compile) -> None:
    strategy = compile_text(HEAD + "route r { compute prompt[:60%] on next(b) generate on x }")
    assert origins(strategy) == {
        "s1": ["compute prompt[:60%] on next(b)"],
        "s2": ["compute prompt[:60%] on next(b)"],
        "s3": ["generate on x"],
    }


def test_ranges_that_became_one_step_are_all_named(compile_text: Compile) -> None:
    route = (
        "route r { reuse prompt[:10%] from next(b) compute prompt[10%:60%] on next(b)"
        " compute rest on x generate on x }"
    )
    found = origins(compile_text(HEAD + route), "cached(b[0]) = 50")
    both = ["reuse prompt[:10%] from next(b)", "compute prompt[10%:60%] on next(b)"]
    assert found["s2"] == both
    assert found["s3"] == ["compute rest on x", "generate on x"]
    cold = origins(compile_text(HEAD + route))  # nothing to reuse: that line does nothing
    assert cold["s2"] == both[1:]


def test_a_handoff_and_a_copy_come_from_the_lines_that_ask_for_them(compile_text: Compile) -> None:
    route = (
        "route r { generate 8 on x generate on next(b)"
        " replicate prompt to next(c) replicate prompt[:100] to next(c) }"
    )
    found = origins(compile_text(HEAD + route))
    second, whole, part = (
        ["generate on next(b)"],
        ["replicate prompt to next(c)"],
        ["replicate prompt[:100] to next(c)"],
    )
    assert found["s1"] == ["generate 8 on x"]
    assert (found["s2"], found["s3"]) == (second, second)
    assert (found["s4"], found["s5"]) == (whole, whole)
    assert (found["s6"], found["s7"]) == (part, part)
    assert (found["s8"], found["s9"]) == (whole, part)
    assert found["s10"] == second
