"""What to write instead, where the type that is wanted and the one that was found say so."""

from collections.abc import Sequence

from mserve.dsl import builtins, syntax, types
from mserve.dsl.builtins import Role
from mserve.dsl.symbols import Symbols
from mserve.dsl.syntax import Expr, Unit
from mserve.dsl.types import BOOL, COUNT, RATIO, WORKER, Kind, Type
from mserve.dsl.unparse import expression, shown

_CHOICE = "choose one: `argmin(load(w) for w in POOL)`"
_BOUNDS = {types.DURATION: "1s", RATIO: "50%", types.BYTES: "1GiB"}


def unit_hint(expr: Expr, wanted: Type, unit: str = "") -> str:
    """For a literal with another unit than is wanted; `unit` is the usual one in this place."""
    if not isinstance(expr, syntax.Number):
        return ""
    if expr.unit is not Unit.NONE:
        digits = expr.text.rstrip("abcdefghijklmnopqrstuvwxyzBKMGT%")
        if wanted == COUNT and expr.text.endswith("B"):
            return "KV is counted in tokens here, not in bytes"
        return f"leave the unit out: `{digits}`" if wanted == COUNT else ""
    if wanted == types.BYTES:
        return f"give it a unit: `{expr.text}{'GiB' if expr.value else 'B'}`"
    if wanted != types.DURATION:
        return ""
    if unit or not expr.value:
        return f"give it a unit: `{expr.text}{unit or 's'}`"
    return f"a duration has a unit: `{expr.text}ms` or `{expr.text}s`"


def share_hint(left: Type, right: Expr) -> str:
    """For `cached(d) > 50%`."""
    if left != COUNT or not isinstance(right, syntax.Number) or right.unit is not Unit.RATIO:
        return ""
    return f"a part of the prompt is `{right.text} * tokens(prompt)`"


def unit_beside(expr: Expr) -> str:
    """The unit of a literal as written, empty for anything else."""
    return expr.text.lstrip("0123456789.") if isinstance(expr, syntax.Number) else ""


def type_hint(expr: Expr, found: Type, wanted: Type, symbols: Symbols) -> str:
    """For a value of another kind than is wanted."""
    if wanted.kind is Kind.WORKER:
        return _worker_hint(expr, found, symbols)
    if wanted.is_number:
        return _number_hint(expr, found)
    if wanted == BOOL:
        return _condition_hint(expr, found)
    if wanted.kind is Kind.POOL and found.kind is Kind.WORKER:
        return "name the pool: `w in POOL`"
    if wanted.kind is Kind.TEXT and isinstance(expr, syntax.Number):
        return f'a text stands in quotes: `"{expr.text}"`'
    return ""


def _worker_hint(expr: Expr, found: Type, symbols: Symbols) -> str:
    if found.kind is Kind.POOL and len(found.pools) == 1:
        (pool,) = found.pools
        return f"choose one of its workers: `argmin(load(w) for w in {pool})`"
    if found.kind is Kind.TEXT:
        return f"workers have no names in a strategy; {_CHOICE}"
    if not found.is_number:
        return ""
    named = symbols.names.get(expr.name) if isinstance(expr, syntax.Name) else None
    value = named.value if isinstance(named, syntax.Let) else expr
    if not isinstance(value, syntax.Fold) or value.op not in ("min", "max"):
        return _CHOICE
    instead = expression(value).replace(value.op, f"arg{value.op}", 1)
    return f"`{value.op}` gives the value; the worker that has it is `{instead}`"


def _number_hint(expr: Expr, found: Type) -> str:
    match found.kind:
        case Kind.PROMPT:
            return "its length is `tokens(prompt)`"
        case Kind.POOL:
            pool = expression(expr)
            chosen = f"one of its workers `argmin(load(w) for w in {pool})`"
            return f"its size is `count(w for w in {pool})`, {chosen}"
        case Kind.WORKER:
            worker = expression(expr) if isinstance(expr, syntax.Name) else "w"
            return f"observe it: `load({worker})`, `cached({worker})`, `queued({worker})`"
        case Kind.BOOL:
            return "how often something holds is `count(COND for w in POOL)`"
        case Kind.TEXT:
            return "a text is compared with texts only"
        case _:
            return ""


def _condition_hint(expr: Expr, found: Type) -> str:
    if found.is_number and not isinstance(expr, syntax.Number):
        text = shown(expr).strip("`") if shown(expr) != "this" else "..."
        return f"compare it: `{text} > {_BOUNDS.get(found, '0')}`"
    if isinstance(expr, syntax.Text):
        return f'each condition compares anew: `x == "a" or x == {expression(expr)}`'
    return ""


def logic_hint(expr: syntax.Binary) -> str:
    """For `a or b` of workers."""
    return (
        f"`{expr.op}` joins conditions; one of two workers is `a if COND else b`, "
        "and what is tried when a worker is missing is a route below"
    )


def call_hint(name: str) -> str:
    """For a call of something that takes no arguments."""
    return f"write `{name}` without parentheses"


def fold_hint(expr: syntax.Call, types_of: Sequence[Type]) -> str:
    """For `argmin(load, decode)`, `max(decode)` and the like, with what the author named."""
    if len(expr.args) == 2 and all(found.kind is Kind.WORKER for found in types_of):
        a, b = map(expression, expr.args)
        return f"of two workers: `{a} if load({a}) < load({b}) else {b}`"
    asked = next((name for arg in expr.args if (name := observation(arg))), "load")
    pools = [pool for found in types_of if found.kind is Kind.POOL for pool in found.pools]
    values = {"any": "load(w) < 5s", "all": "load(w) < 5s", "count": "w"}
    value = values.get(expr.name, f"{asked}(w)")
    return f"write `{expr.name}({value} for w in {pools[0] if pools else 'POOL'})`"


def observation(arg: Expr) -> str:
    """The name of an observation of one worker: of `load`, and of `load(decode)`."""
    if not isinstance(arg, syntax.Name | syntax.Call):
        return ""
    builtin = builtins.CALLS.get(arg.name)
    return arg.name if builtin is not None and builtin.takes == (WORKER,) else ""


def unobserved(arg: Expr) -> tuple[Expr, ...]:
    """What to look at in an argument: of `load` nothing, of `load(decode)` what it observes."""
    if not observation(arg):
        return (arg,)
    return arg.args if isinstance(arg, syntax.Call) else ()


def function_hint(name: str) -> str:
    """For the bare name of a function where a value is wanted."""
    if name in builtins.FOLDS and name not in builtins.CALLS:
        return f"write `{builtins.FOLDS[name].form(folds=True)}`"
    form = builtins.CALLS[name].form(folds=False) if name in builtins.CALLS else f"{name}(...)"
    return f"call it: `{form}`"


def form_hint(name: str, symbols: Symbols) -> str:
    """How a function of so many arguments is called."""
    definition = symbols.names.get(name)
    if isinstance(definition, syntax.Def):
        return f"write `{name}({', '.join(definition.parameters)})`"
    return f"write `{builtins.CALLS[name].form(folds=False)}`"


_OF_ROLES = {
    Role.PROMPT: "write `tokens(prompt)`; of a part, multiply: `50% * tokens(prompt)`",
    Role.QUOTED: 'write `header("x-name")`',
    Role.KEY: "write `sticky(session, POOL)` or `sticky(prompt[:512], POOL)`",
}


def role_hint(role: Role) -> str:
    return _OF_ROLES.get(role, "")


def plays(arg: Expr, found: Type, role: Role) -> bool:
    """Whether an argument of type `found` can play a role."""
    whole_prompt = isinstance(arg, syntax.PromptRange) and arg.begin is None and arg.end is None
    return {
        Role.PROMPT: whole_prompt,
        Role.KEY: found.kind in (Kind.TEXT, Kind.PROMPT),
        Role.QUOTED: isinstance(arg, syntax.Text),
        Role.BOOL_OR_WORKER: found.kind in (Kind.BOOL, Kind.WORKER),
        Role.NUMBER: found.is_number,
        Role.ROUTE: isinstance(arg, syntax.Name),
    }[role]
