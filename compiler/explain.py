"""`mserve plan`: what a strategy does with a request, in any of the formats there are.

Pure functions of a compiled strategy and a situation; nothing here decides anything, and how a
format looks is its module's in views.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mserve.compiler.givens import GivenError, situation_from_text
from mserve.compiler.pipeline import CompiledStrategy
from mserve.compiler.views.dot import draw_dot
from mserve.compiler.views.html import write_html
from mserve.compiler.views.json import write_json
from mserve.compiler.views.mermaid import draw_mermaid
from mserve.compiler.views.subject import Subject, subject_of
from mserve.compiler.views.svg import draw_svg
from mserve.compiler.views.text import write_decision, write_stage, write_text

FORMATS: Mapping[str, Callable[[Subject], str]] = {
    "text": write_text,
    "json": write_json,
    "mermaid": draw_mermaid,
    "dot": draw_dot,
    "svg": draw_svg,
    "html": write_html,
}


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What `mserve plan` was asked: texts as on the command line, all optional."""

    cluster: Sequence[str] = ()  # "decode=4"
    givens: Sequence[str] = ()  # "tokens(prompt) = 4000"
    params: Sequence[str] = ()  # "tail=20%"
    after: str = ""  # name of a pass: show what it leaves

    @property
    def situation(self) -> tuple[str, ...]:
        return (*self.cluster, *self.givens, *self.params)

    @property
    def is_concrete(self) -> bool:
        return bool(self.situation)


def plan_view(strategy: CompiledStrategy, asked: PlanRequest, style: str) -> str:
    """Without a situation the plan of every route over symbols, else the decision and its plan.

    `style` is one of FORMATS. Raises GivenError.
    """
    situation = None
    if asked.is_concrete:
        situation = situation_from_text(strategy, asked.cluster, asked.givens, asked.params)
    subject = subject_of(strategy, situation, asked.situation)
    if not asked.after:
        return FORMATS[style](subject)
    if asked.is_concrete or style != "text":
        raise GivenError("what a pass leaves is shown only without a situation, and as text")
    return write_stage(subject, asked.after)


def plan_text(strategy: CompiledStrategy, asked: PlanRequest) -> str:
    """`plan_view` for people at a terminal. Raises GivenError."""
    return plan_view(strategy, asked, "text")


def decision_text(strategy: CompiledStrategy, asked: PlanRequest) -> str:
    """`plan_text` of a situation, less the predicted times. Raises GivenError."""
    situation = situation_from_text(strategy, asked.cluster, asked.givens, asked.params)
    return write_decision(subject_of(strategy, situation, asked.situation))
