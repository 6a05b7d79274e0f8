"""A diagnostic is data: what is wrong, where, and what to write instead. Rendering is elsewhere (render/)."""

from dataclasses import dataclass
from enum import StrEnum

from mserve.dsl.syntax import Span


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Label:
    """A span to underline and the words beside its carets (may be empty)."""

    span: Span
    text: str = ""


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace the characters of `span` by `text`."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One problem of a strategy.

    `rule` is a kebab-case id; `message` names the mistake in the author's terms; `labels[0]` is the
    primary place; `help` says what to write; `fix` is set only where applying it is safe.
    """

    rule: str
    message: str
    labels: tuple[Label, ...]
    help: str = ""
    severity: Severity = Severity.ERROR
    fix: tuple[Edit, ...] = ()

    @property
    def span(self) -> Span:
        return self.labels[0].span
