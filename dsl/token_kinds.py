"""Sets of the grammar's kinds of tokens that reading, mending, formatting and completion share.

The grammar says which kinds there are; a test holds the two together.
"""

from collections.abc import Mapping

DECLARATIONS = frozenset(
    ["STRATEGY", "PARAM", "POOL", "LET", "DEF", "ROUTE", "ADAPT", "SLO", "LIMITS", "TEST"]
)
"""Their first tokens, each a keyword."""

STEPS = frozenset(["COMPUTE", "REUSE", "GENERATE", "REPLICATE"])
TEST_LINES = frozenset(["CLUSTER", "GIVEN", "EXPECT"])
STATEMENTS = STEPS | TEST_LINES
"""What begins a line of a block; declarations with settings have no such keyword."""

WITH_SETTINGS = frozenset(["POOL", "ADAPT", "SLO", "LIMITS"])
LITERALS = frozenset(["TEXT", "NUMBER", "RATIO", "DURATION", "BYTES", "TRUE", "FALSE"])
EXPRESSION_ENDS = LITERALS | {"NAME", "PROMPT", "RPAR", "RSQB"}
OPENING = frozenset(["LPAR", "LSQB", "LBRACE"])
CLOSING = frozenset(["RPAR", "RSQB", "RBRACE"])

PLAIN_HEADS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "ROUTE": (("ROUTE", "route"), ("NAME", "_"), ("LBRACE", "{")),
    "TEST": (("TEST", "test"), ("TEXT", '""'), ("LBRACE", "{")),
    "POOL": (("POOL", "pool"), ("NAME", "_"), ("LBRACE", "{")),
    "SLO": (("SLO", "slo"), ("LBRACE", "{")),
    "LIMITS": (("LIMITS", "limits"), ("LBRACE", "{")),
    "ADAPT": (("ADAPT", "adapt"), ("EVERY", "every"), ("DURATION", "1s"), ("LBRACE", "{")),
}
"""Kinds and spellings of the shortest heads that the grammar takes, to read a block behind a broken
one."""
