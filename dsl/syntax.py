"""The syntax tree of a strategy: one frozen dataclass per construct, each with the span it was read from.

Spans do not take part in comparison, so "the same expression" (ranges that join) is plain `==`.
This module knows neither text nor grammar (parser.py) nor meaning (check.py).
"""

from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `[start, end)` of the source text, counted from 0."""

    start: int
    end: int


NOWHERE = Span(0, 0)
"""The span of what was made by a program instead of being read from a text."""


@dataclass(frozen=True, slots=True)
class Node:
    span: Span = field(compare=False, repr=False)


class Unit(StrEnum):
    """Unit of a literal as written; `NONE` is a bare, still untyped number."""

    NONE = "none"
    RATIO = "ratio"
    DURATION = "duration"
    BYTES = "bytes"


# --- expressions -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Number(Node):
    """A literal in base units: `10%` is 0.1, `50ms` is 0.05 (s), `64GiB` is bytes. `text` is as written."""

    value: float
    unit: Unit
    text: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Text(Node):
    value: str


@dataclass(frozen=True, slots=True)
class Boolean(Node):
    value: bool


@dataclass(frozen=True, slots=True)
class Name(Node):
    """A reference: a `let`, param, pool, comprehension variable, or a bare observation (`max_tokens`)."""

    name: str


@dataclass(frozen=True, slots=True)
class WorkerAt(Node):
    """`decode[0]`: a pool's worker by position (tests and `--given` only)."""

    pool: str
    index: int


@dataclass(frozen=True, slots=True)
class Call(Node):
    """`name(args...)`: an observation, arithmetic built-in, whole-pool choice or a `def`."""

    name: str
    name_span: Span = field(compare=False, repr=False)
    args: tuple["Expr", ...]


@dataclass(frozen=True, slots=True)
class Fold(Node):
    """`argmin(value for variable in pool where condition)` and the aggregates of the same form."""

    op: str
    op_span: Span = field(compare=False, repr=False)
    value: "Expr"
    variable: str
    pool: "Expr"
    where: "Expr | None"
    variable_span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Filter(Node):
    """`[variable for variable in pool where condition]`: a filtered pool."""

    variable: str
    pool: "Expr"
    where: "Expr | None"
    variable_span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Unary(Node):
    """`-x` or `not x`."""

    op: str
    operand: "Expr"


@dataclass(frozen=True, slots=True)
class Binary(Node):
    """`+ - * /`, `and`, `or` and the comparisons `< <= > >= == !=`."""

    op: str
    op_span: Span = field(compare=False, repr=False)
    left: "Expr"
    right: "Expr"


@dataclass(frozen=True, slots=True)
class Conditional(Node):
    """`then if condition else otherwise`."""

    then: "Expr"
    condition: "Expr"
    otherwise: "Expr"


@dataclass(frozen=True, slots=True)
class PromptRange(Node):
    """`prompt`, `prompt[a:b]`, `prompt[:a]`, `prompt[a:]`; a missing bound is None."""

    begin: "Expr | None"
    end: "Expr | None"


@dataclass(frozen=True, slots=True)
class Rest(Node):
    """`rest`: from where the range above ends to the end of the prompt."""


Expr = (
    Number
    | Text
    | Boolean
    | Name
    | WorkerAt
    | Call
    | Fold
    | Filter
    | Unary
    | Binary
    | Conditional
    | PromptRange
)
Range = PromptRange | Rest


# --- steps -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Compute(Node):
    """`compute RANGE on WORKER`."""

    range: Range
    worker: Expr


@dataclass(frozen=True, slots=True)
class Reuse(Node):
    """`reuse RANGE from WORKER`."""

    range: Range
    worker: Expr


@dataclass(frozen=True, slots=True)
class Generate(Node):
    """`generate on WORKER`, or `generate COUNT on WORKER`: decode hands over after COUNT tokens."""

    count: Expr | None
    worker: Expr


@dataclass(frozen=True, slots=True)
class Replicate(Node):
    """`replicate RANGE to WORKER`."""

    range: Range
    worker: Expr


Step = Compute | Reuse | Generate | Replicate


# --- declarations ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Param(Node):
    name: str
    name_span: Span = field(compare=False, repr=False)
    default: Expr
    low: Expr
    high: Expr


@dataclass(frozen=True, slots=True)
class Setting(Node):
    """`name = value`, where a value is a constant, a bare word or `word(name = value, ...)`."""

    name: str
    name_span: Span = field(compare=False, repr=False)
    value: "Expr | SettingCall"


@dataclass(frozen=True, slots=True)
class SettingCall(Node):
    """`continuous(tokens = 8192)` or `peer(POOL)`; a positional argument is a Setting named ""."""

    name: str
    name_span: Span = field(compare=False, repr=False)
    args: tuple[Setting, ...]


@dataclass(frozen=True, slots=True)
class Pool(Node):
    name: str
    name_span: Span = field(compare=False, repr=False)
    settings: tuple[Setting, ...]


@dataclass(frozen=True, slots=True)
class Let(Node):
    name: str
    name_span: Span = field(compare=False, repr=False)
    value: Expr


@dataclass(frozen=True, slots=True)
class Def(Node):
    name: str
    name_span: Span = field(compare=False, repr=False)
    parameters: tuple[str, ...]
    value: Expr
    parameter_spans: tuple[Span, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Route(Node):
    name: str
    name_span: Span = field(compare=False, repr=False)
    guard: Expr | None
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Adapt(Node):
    every: Expr
    updates: tuple[Setting, ...]


@dataclass(frozen=True, slots=True)
class Slo(Node):
    goals: tuple[Setting, ...]


@dataclass(frozen=True, slots=True)
class Limits(Node):
    limits: tuple[Setting, ...]


# --- tests -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Given(Node):
    """`target = value`: an observation call, a bare observation or a binding fixed for a test."""

    target: Expr
    value: Expr


@dataclass(frozen=True, slots=True)
class ExpectRoute(Node):
    route: str
    route_span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ExpectValue(Node):
    """`expect CONDITION`, e.g. `expect quiet = workers[1]` (kept as target and value) ."""

    target: Expr
    value: Expr


@dataclass(frozen=True, slots=True)
class ExpectSends(Node):
    """`expect sends [a:b] from W to W`."""

    range: PromptRange
    source: Expr
    target: Expr


Expectation = ExpectRoute | ExpectValue | ExpectSends


@dataclass(frozen=True, slots=True)
class Test(Node):
    title: str
    cluster: tuple[Setting, ...]
    givens: tuple[Given, ...]
    expectations: tuple[Expectation, ...]


@dataclass(frozen=True, slots=True)
class Strategy(Node):
    """A whole file. Declarations keep their order of appearance within each kind."""

    name: str
    name_span: Span = field(compare=False, repr=False)
    description: str
    params: tuple[Param, ...]
    pools: tuple[Pool, ...]
    lets: tuple[Let, ...]
    defs: tuple[Def, ...]
    routes: tuple[Route, ...]
    adapts: tuple[Adapt, ...]
    slos: tuple[Slo, ...]
    limits: tuple[Limits, ...]
    tests: tuple[Test, ...]
