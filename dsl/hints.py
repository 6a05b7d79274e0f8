"""What to write instead, where the type that is wanted and the one that was found say so."""

from collections.abc import Sequence
from typing import TypeGuard

from mserve.dsl import builtins, syntax, types
from mserve.dsl.builtins import Role
from mserve.dsl.syntax import Expr
from mserve.dsl.types import Kind, Type


def suffix_hint(expr: Expr, wanted: Type) -> str:
    """For a bare literal where a duration or a number of bytes is wanted."""
    if not isinstance(expr, syntax.Number) or expr.unit is not syntax.Unit.NONE:
        return ""
    if wanted == types.DURATION:
        return f"give it a unit: `{expr.text}{'ms' if expr.value else 's'}`"
    if wanted == types.BYTES:
        return f"give it a unit: `{expr.text}{'GiB' if expr.value else 'B'}`"
    return ""


def choice_hint(found: Type, wanted: Type) -> str:
    """For a pool where one of its workers is wanted."""
    if found.kind is Kind.POOL and wanted.kind is Kind.WORKER and len(found.pools) == 1:
        (pool,) = found.pools
        return f"choose one of its workers: `argmin(load(w) for w in {pool})`"
    if found.kind is Kind.WORKER and wanted.kind is Kind.POOL:
        return "name the pool: `w in POOL`"
    if found.kind is Kind.PROMPT and wanted.is_number:
        return "its length is `tokens(prompt)`"
    return ""


def call_hint(name: str) -> str:
    """For a call of something that takes no arguments."""
    return f"write `{name}` without parentheses"


def fold_hint(expr: syntax.Call, types_of: Sequence[Type]) -> str:
    """For `argmin(load, decode)`, `max(decode)` and the like, with what the author named."""
    asked = next((arg.name for arg in expr.args if is_observation(arg)), "load")
    pools = [pool for found in types_of if found.kind is Kind.POOL for pool in found.pools]
    value = "load(w) < 5s" if expr.name in ("any", "all", "count") else f"{asked}(w)"
    return f"write `{expr.name}({value} for w in {pools[0] if pools else 'POOL'})`"


def is_observation(arg: Expr) -> TypeGuard[syntax.Name]:
    """The bare name of an observation of one worker."""
    if not isinstance(arg, syntax.Name):
        return False
    builtin = builtins.CALLS.get(arg.name)
    return builtin is not None and builtin.takes == (types.WORKER,)


def function_hint(name: str) -> str:
    """For the bare name of a function where a value is wanted."""
    if name in builtins.FOLDS and name not in builtins.CALLS:
        return f"write `{builtins.FOLDS[name].form(folds=True)}`"
    form = builtins.CALLS[name].form(folds=False) if name in builtins.CALLS else f"{name}(...)"
    return f"call it: `{form}`"


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
