"""What the server's commands need of the compiler, which the language may not know.

Whoever starts the server brings an implementation; it is called from a thread of its own.
"""

from dataclasses import dataclass
from typing import Protocol

from mserve.dsl.check import Checked
from mserve.dsl.diagnostics import Diagnostic


class Refused(Exception):
    """A command that cannot be carried out: a sentence for the author."""


@dataclass(frozen=True, slots=True)
class PlanPage:
    """One plan as text and as a page that needs nothing else."""

    text: str
    html: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What tests gave: all of it, a sentence, and each failure where its test stands."""

    text: str
    summary: str
    failures: tuple[Diagnostic, ...]


class Commands(Protocol):
    def plan(self, checked: Checked, route: str | None) -> PlanPage:
        """Of all routes, or of one. Raises Refused."""

    def test(self, checked: Checked, title: str | None) -> Verdict:
        """Runs all tests, or those of one title. Raises Refused."""
