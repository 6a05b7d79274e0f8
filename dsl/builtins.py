"""The names the language brings along: observations, choices, aggregates and arithmetic.

The one definition that resolution, types, stages, hover and completion share: what a name takes,
what it gives, when it may be used, and a line that says what it means. Units are in types.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from mserve.dsl.types import (
    BOOL,
    COUNT,
    DURATION,
    POOL,
    RATIO,
    TEXT,
    WORKER,
    Type,
)


class Role(StrEnum):
    """Arguments that are more, or less, than a value of one type."""

    PROMPT = "`prompt`"
    ROUTE = "a route"
    KEY = "a text or a part of the prompt"
    QUOTED = "a text in double quotes"
    NUMBER = "a number"  # all of them of one unit
    BOOL_OR_WORKER = "a truth value or a worker"


class Stage(StrEnum):
    """What must be known before a name has a value."""

    CONSTANT = "constant"  # arithmetic
    CLUSTER = "cluster"  # the same for all requests
    REQUEST = "request"  # one request against one snapshot
    DISPATCH = "dispatch"  # a choice that leaves traces: stands alone, where a worker is chosen


@dataclass(frozen=True, slots=True)
class Builtin:
    """`result` None is the type of the first number among the arguments (or of a fold's value)."""

    name: str
    takes: tuple[Type | Role, ...]
    result: Type | None
    stage: Stage
    doc: str
    variadic: bool = False

    def form(self, folds: bool) -> str:
        """How it is written: `load(WORKER)`, `argmin(NUMBER for w in POOL where COND)`."""
        words = [_WORDS[each] for each in self.takes]
        if folds:
            return f"{self.name}({words[0]} for w in POOL where COND)"
        more = ", ..." if self.variadic else ""
        return f"{self.name}({', '.join(words)}{more})" if words else self.name


_WORDS: Mapping[Type | Role, str] = {
    WORKER: "WORKER",
    POOL: "POOL",
    COUNT: "COUNT",
    BOOL: "COND",
    Role.PROMPT: "prompt",
    Role.ROUTE: "ROUTE",
    Role.KEY: "KEY",
    Role.QUOTED: '"name"',
    Role.NUMBER: "NUMBER",
    Role.BOOL_OR_WORKER: "COND",
}


def _table(*builtins: Builtin) -> dict[str, Builtin]:
    return {builtin.name: builtin for builtin in builtins}


REQUEST, CLUSTER = Stage.REQUEST, Stage.CLUSTER

# Written without parentheses.
BARE = _table(
    Builtin("max_tokens", (), COUNT, REQUEST, "most tokens the request lets be generated"),
    Builtin(
        "expected_output", (), COUNT, REQUEST, "mean length of recent answers under this strategy"
    ),
    Builtin("priority", (), RATIO, REQUEST, "the request's priority"),
    Builtin("tenant", (), TEXT, REQUEST, "whose request it is"),
    Builtin("model", (), TEXT, REQUEST, "the model asked for"),
    Builtin("session", (), TEXT, REQUEST, "the conversation the request belongs to"),
)

# Written `name(argument, ...)`.
CALLS = _table(
    Builtin("tokens", (Role.PROMPT,), COUNT, REQUEST, "length of the prompt"),
    Builtin("header", (Role.QUOTED,), TEXT, REQUEST, "an HTTP header; empty if absent"),
    Builtin(
        "cached", (WORKER,), COUNT, REQUEST, "longest prefix of the prompt on the worker, any tier"
    ),
    Builtin(
        "load", (WORKER,), DURATION, CLUSTER, "estimated work admitted to the worker and not done"
    ),
    Builtin(
        "recent", (WORKER,), DURATION, CLUSTER, "estimated work sent to it in the last 3 minutes"
    ),
    Builtin("prefill_backlog", (WORKER,), DURATION, CLUSTER, "prefill work a new prompt waits for"),
    Builtin("queued", (WORKER,), COUNT, CLUSTER, "requests that wait on the worker"),
    Builtin("running", (WORKER,), COUNT, CLUSTER, "requests in the worker's batch"),
    Builtin("kv_free", (WORKER,), COUNT, CLUSTER, "tokens of KV cache not in use"),
    Builtin("kv_used", (WORKER,), RATIO, CLUSTER, "share of the KV cache in use"),
    Builtin("prefill_time", (COUNT, WORKER), DURATION, CLUSTER, "time to prefill so many tokens"),
    Builtin("decode_time", (COUNT, WORKER), DURATION, CLUSTER, "time to decode so many tokens"),
    Builtin(
        "transfer_time",
        (COUNT, WORKER, WORKER),
        DURATION,
        CLUSTER,
        "time to move the KV of so many tokens from one worker to the other",
    ),
    Builtin(
        "evict_time",
        (COUNT, WORKER),
        DURATION,
        CLUSTER,
        "cost of what must be evicted to make room for so many tokens",
    ),
    Builtin("hit_rate", (WORKER,), RATIO, CLUSTER, "share of prompt tokens found cached"),
    Builtin("decode_share", (WORKER,), RATIO, CLUSTER, "share of time spent on decoding"),
    Builtin(
        "wait_growth",
        (WORKER,),
        RATIO,
        CLUSTER,
        "mean queueing time of the window's later half over its earlier half",
    ),
    Builtin(
        "ttft",
        (Role.ROUTE,),
        DURATION,
        REQUEST,
        "predicted time to first token of a route's plan now; infinite if impossible",
    ),
    Builtin("next", (POOL,), WORKER, Stage.DISPATCH, "the pool's workers in turn"),
    Builtin("random", (POOL,), WORKER, Stage.DISPATCH, "a worker, uniformly"),
    Builtin(
        "sticky",
        (Role.KEY, POOL),
        WORKER,
        REQUEST,
        "the same worker for the same key (consistent hashing)",
    ),
    Builtin("min", (Role.NUMBER,) * 2, None, Stage.CONSTANT, "the smallest", variadic=True),
    Builtin("max", (Role.NUMBER,) * 2, None, Stage.CONSTANT, "the largest", variadic=True),
    Builtin(
        "clamp", (Role.NUMBER,) * 3, None, Stage.CONSTANT, "the first, kept between the others"
    ),
    Builtin("abs", (Role.NUMBER,), None, Stage.CONSTANT, "without its sign"),
    Builtin("floor", (Role.NUMBER,), None, Stage.CONSTANT, "rounded down"),
)

# Written `name(value for w in POOL where COND)`; `takes` is the value's type.
FOLDS = _table(
    Builtin("argmin", (Role.NUMBER,), WORKER, CLUSTER, "the worker where the value is smallest"),
    Builtin("argmax", (Role.NUMBER,), WORKER, CLUSTER, "the worker where the value is largest"),
    Builtin(
        "two_choices",
        (Role.NUMBER,),
        WORKER,
        Stage.DISPATCH,
        "the better of two random workers: smallest value",
    ),
    Builtin("min", (Role.NUMBER,), None, CLUSTER, "the smallest; missing over no worker"),
    Builtin("max", (Role.NUMBER,), None, CLUSTER, "the largest; missing over no worker"),
    Builtin("sum", (Role.NUMBER,), None, CLUSTER, "the sum; 0 over no worker"),
    Builtin("mean", (Role.NUMBER,), None, CLUSTER, "the mean; missing over no worker"),
    Builtin(
        "count",
        (Role.BOOL_OR_WORKER,),
        COUNT,
        CLUSTER,
        "how many workers it holds for; 0 over none",
    ),
    Builtin("any", (BOOL,), BOOL, CLUSTER, "whether it holds for one; false over no worker"),
    Builtin("all", (BOOL,), BOOL, CLUSTER, "whether it holds for all; true over no worker"),
)

SHARES = frozenset(["kv_used", "hit_rate", "decode_share"])
"""Ratios that are at most 100%."""

UNGIVEN: Mapping[str, int] = {"tokens": 1000, "max_tokens": 256}
"""Of a request in a test or view that does not say: the prompt's length, and the answer's limit."""

NAMES = frozenset(BARE) | frozenset(CALLS) | frozenset(FOLDS)
