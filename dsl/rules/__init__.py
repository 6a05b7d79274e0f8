"""The rules of `mserve check`: one function per rule, which words its diagnostic and documents it.

Where a rule is broken is found elsewhere (names.py, inference.py, ranges.py, ...); these functions
know only how to say it. A rule's id is its function's name with hyphens, its page the docstring.
"""

import inspect
from collections.abc import Callable, Mapping

from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.rules import form, naming, prompt, routes, scenarios, settings, units

_FUNCTIONS: tuple[Callable[..., Diagnostic], ...] = (
    form.syntax,
    form.chained_comparison,
    naming.unknown_name,
    naming.duplicate_name,
    naming.comprehension_variable_shadows,
    naming.recursive_definition,
    naming.unused_binding,
    naming.unused_param,
    naming.unused_pool,
    units.wrong_type,
    units.unit_mismatch,
    units.not_available_here,
    settings.unknown_setting,
    settings.bad_setting,
    settings.param_out_of_range,
    prompt.gap_in_prompt,
    prompt.overlap_in_prompt,
    prompt.ranges_out_of_order,
    prompt.doubtful_bound,
    routes.missing_generate,
    routes.steps_after_generate,
    routes.no_fallback_route,
    routes.unreachable_route,
    routes.constant_guard,
    routes.too_expensive,
    routes.self_transfer,
    scenarios.test_unknown_worker,
    scenarios.test_inconsistent_given,
    scenarios.test_proves_nothing,
)

RULES: Mapping[str, Callable[..., Diagnostic]] = {
    function.__name__.replace("_", "-"): function for function in _FUNCTIONS
}


def page_of(rule: str) -> str:
    """What a rule does, why, and what to write instead. Raises KeyError for an unknown id."""
    page = inspect.getdoc(RULES[rule])
    assert page is not None, f"the rule {rule} has no page"
    return page
