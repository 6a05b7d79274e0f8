"""The frequent mistakes of form: examples of each, and what to say about it.

A text is labelled like the example that stops the parser in the same state at the same kind of
token (Jeffery, "Generating LR syntax error messages from examples", 2003). Tables only.
"""

from mserve.dsl.broken_examples import declarations, expressions, routes, scenarios
from mserve.dsl.broken_examples.mistake import Mistake

# Where two examples stop alike, the first counts.
MISTAKES: tuple[Mistake, ...] = (
    *expressions.MISTAKES,
    *routes.MISTAKES,
    *declarations.MISTAKES,
    *scenarios.MISTAKES,
)
