"""What the language's keywords and units mean, and how what they begin is written.

For hover and completion. The keywords are the grammar's; a test holds the two together.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mserve.dsl.literals import number_value
from mserve.dsl.syntax import Unit


@dataclass(frozen=True, slots=True)
class Keyword:
    """`form` is how it is written; `snippet`, where there is one, what a completion inserts, with
    the tab stops of the protocol: `${1:name}`, last `$0`."""

    form: str
    doc: str
    snippet: str = ""


_DECLARATIONS = {
    "strategy": Keyword(
        'strategy NAME "TEXT"',
        "the file's name and what it does; every file begins with it",
        'strategy ${1:name} "${2:what it does}"\n\n$0',
    ),
    "param": Keyword(
        "param NAME = CONST in LOW..HIGH",
        "a number that may be changed while serving, within its range",
        "param ${1:name} = ${2:10%} in ${3:0%}..${4:100%}",
    ),
    "pool": Keyword(
        "pool NAME { SETTING = CONST ... }",
        "a named set of workers; a worker is in exactly one pool",
        "pool ${1:name}",
    ),
    "let": Keyword(
        "let NAME = EXPR",
        "a name for a value; evaluated at most once per decision, and only if needed",
        "let ${1:name} = $0",
    ),
    "def": Keyword(
        "def NAME(a, b) = EXPR",
        "a function; `cached(w)` in it means this request's prompt",
        "def ${1:name}(${2:w}) = $0",
    ),
    "route": Keyword(
        "route NAME when COND { STEPS }",
        "routes are tried in order; the first whose condition holds is taken",
        "route ${1:name} when ${2:condition} {\n  generate on $0\n}",
    ),
    "adapt": Keyword(
        "adapt every DURATION { PARAM = EXPR ... }",
        "sets params anew from what the pools report, each clamped to its range",
        "adapt every ${1:5s} {\n  $0\n}",
    ),
    "slo": Keyword(
        "slo { ttft = 500ms  tpot = 50ms }", "goals for scheduling and reports", "slo {\n  $0\n}"
    ),
    "limits": Keyword(
        "limits { timeout = 60s  retries = 2 }",
        "bounds for each request",
        "limits {\n  $0\n}",
    ),
    "test": Keyword(
        'test "TEXT" { ... }',
        "what is decided in a situation; `mserve test` runs it",
        'test "${1:what is expected}" {\n  given ${2:tokens(prompt) = 4000}\n  expect route $0\n}',
    ),
}
_STEPS = {
    "compute": Keyword(
        "compute RANGE on WORKER",
        "the worker computes the KV of this part of the prompt",
        "compute ${1:prompt} on $0",
    ),
    "reuse": Keyword(
        "reuse RANGE from WORKER",
        "this part of the prompt, as far as the worker has it cached, is taken from it",
        "reuse ${1:prompt} from $0",
    ),
    "generate": Keyword(
        "generate on WORKER",
        "the worker answers; it computes what no range above covers. "
        "`generate COUNT on WORKER`: decode moves on after so many tokens",
        "generate on $0",
    ),
    "replicate": Keyword(
        "replicate RANGE to WORKER",
        "after the first token, in the background, a copy of this part's KV for the worker's cache",
        "replicate ${1:prompt} to $0",
    ),
}
_TESTS = {
    "cluster": Keyword(
        "cluster POOL = COUNT, ...", "how many workers a pool has; otherwise one", "cluster $0"
    ),
    "given": Keyword(
        "given NAME = VALUE, ...",
        "fixes what is observed, or a binding; all else is idle and empty",
        "given $0",
    ),
    "expect": Keyword(
        "expect route NAME | expect NAME = VALUE | expect sends [a:b] from WORKER to WORKER",
        "what the decision must be",
        "expect $0",
    ),
    "sends": Keyword(
        "expect sends [a:b] from WORKER to WORKER",
        "these tokens of the prompt really move",
        "sends [${1::3600}] from ${2:worker} to $0",
    ),
}
_SMALL = {
    "when": Keyword("route NAME when COND { STEPS }", "the route is taken only if this holds"),
    "every": Keyword("adapt every DURATION { ... }", "how often params are set anew"),
    "on": Keyword("on WORKER", "where a step runs"),
    "from": Keyword("from WORKER", "where KV is taken from"),
    "to": Keyword("to WORKER", "where KV goes"),
    "prompt": Keyword(
        "prompt | prompt[a:b] | prompt[:a] | prompt[a:]",
        "the request's prompt, or a part of it; bounds are counts of tokens or ratios",
    ),
    "rest": Keyword("rest", "from where the range above ends to the end of the prompt"),
    "in": Keyword(
        "for w in POOL | param NAME = CONST in LOW..HIGH", "over a pool's workers; within a range"
    ),
    "for": Keyword("argmin(NUMBER for w in POOL where COND)", "each worker of a pool in turn"),
    "where": Keyword("for w in POOL where COND", "only workers for which this holds"),
    "if": Keyword("x if COND else y", "x where the condition holds, otherwise y"),
    "else": Keyword("x if COND else y", "x where the condition holds, otherwise y"),
    "and": Keyword("a and b", "whether both hold"),
    "or": Keyword("a or b", "whether one of them holds"),
    "not": Keyword("not a", "whether it does not hold"),
    "true": Keyword("true", "holds always"),
    "false": Keyword("false", "holds never"),
}

KEYWORDS: Mapping[str, Keyword] = {**_DECLARATIONS, **_STEPS, **_TESTS, **_SMALL}
DECLARATIONS = tuple(_DECLARATIONS)

FALLBACK_ROUTE = Keyword(
    "route NAME { STEPS }",
    "the last route has no condition: it takes whatever is left",
    "route ${1:name} {\n  generate on $0\n}",
)

_UNITS = {
    Unit.RATIO: ("a ratio", ""),
    Unit.DURATION: ("a duration", " s"),
    Unit.BYTES: ("a number of bytes", " bytes"),
}


def describe_number(text: str) -> str:
    """`50ms` -> "a duration: 0.05 s"; a bare number has no unit until it meets one."""
    value, unit = number_value(text)
    if unit is Unit.NONE:
        return "a bare number: a ratio in `*` and `/`, elsewhere what the other side is"
    kind, suffix = _UNITS[unit]
    return f"{kind}: {_spelled(value)}{suffix}"


def _spelled(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"
