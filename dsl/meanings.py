"""What a name means, for hover and the outline: its kind, its type in words, how it is written.

Wording only; which name stands where is for occurrences.py to find.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mserve.dsl import builtins, syntax
from mserve.dsl.builtins import Builtin, Stage
from mserve.dsl.settings import Choice, Constant, Specification, Word
from mserve.dsl.symbols import Declaration
from mserve.dsl.syntax import Span
from mserve.dsl.types import UNKNOWN, WORKER, Kind, Type
from mserve.dsl.unparse import declaration as unparsed
from mserve.dsl.unparse import signature


@dataclass(frozen=True, slots=True)
class Meaning:
    """`declared` is the name where it is declared, None for what the language brings along.

    `kind` is a word such as "binding", "observation" or "setting"; `type` is in words, empty where
    there is none or it is not known, and `found` the same of a declaration as a type; `code` is how
    it is written or declared.
    """

    kind: str
    name: str
    code: str
    type: str = ""
    doc: str = ""
    declared: Span | None = None
    found: Type = UNKNOWN


def in_words(found: Type) -> str:
    """`a duration`, `a worker of prefill or decode`; empty for what is not known."""
    if found == UNKNOWN:
        return ""
    if found.kind in (Kind.WORKER, Kind.POOL) and found.pools:
        pools = " or ".join(f"`{pool}`" for pool in sorted(found.pools))
        return f"a worker of {pools}" if found.kind is Kind.WORKER else f"workers of {pools}"
    return str(found)


# --- declarations ----------------------------------------------------------------------------


def of_declaration(item: Declaration | syntax.Route, found: Type, doc: str) -> Meaning:
    """`found` is the type of its value, UNKNOWN where it has none."""
    kind = _KINDS[type(item)]
    return Meaning(kind, item.name, unparsed(item), in_words(found), doc, item.name_span, found)


_KINDS: Mapping[type, str] = {
    syntax.Param: "param",
    syntax.Pool: "pool",
    syntax.Let: "binding",
    syntax.Def: "definition",
    syntax.Route: "route",
}


def of_strategy(strategy: syntax.Strategy) -> Meaning:
    code = f"strategy {strategy.name}"
    return Meaning("strategy", strategy.name, code, "", strategy.description, strategy.name_span)


def of_variable(name: str, worker: Type, declared: Span) -> Meaning:
    words = in_words(worker) or in_words(WORKER)
    return Meaning("variable", name, f"for {name} in ...", words, "each worker in turn", declared)


def of_parameter(name: str, definition: syntax.Def, declared: Span) -> Meaning:
    code = f"def {signature(definition)}"
    return Meaning("parameter", name, code, "", f"a parameter of `{definition.name}`", declared)


# --- what the language brings along ----------------------------------------------------------


def of_builtin(builtin: Builtin) -> Meaning:
    result = in_words(builtin.result) if builtin.result is not None else "the unit of its arguments"
    return Meaning(
        _kind_of(builtin), builtin.name, builtin.form(_is_fold(builtin)), result, builtin.doc
    )


def _kind_of(builtin: Builtin) -> str:
    if builtin.result == WORKER:
        return "choice"
    if _is_fold(builtin):
        return "aggregate"
    return "function" if builtin.stage is Stage.CONSTANT else "observation"


def _is_fold(builtin: Builtin) -> bool:
    return builtins.FOLDS.get(builtin.name) is builtin


def of_setting(name: str, specification: Specification) -> Meaning:
    if isinstance(specification, Constant):
        return Meaning(
            "setting", name, f"{name} = ...", in_words(specification.type), specification.doc
        )
    words = " | ".join(specification.words)
    return Meaning("setting", name, f"{name} = {words}", "", specification.doc)


def of_word(name: str, choice: Choice) -> Meaning:
    """One of a setting's words: `fcfs`, `continuous(tokens = ..., chunk = ...)`."""
    word = choice.words[name]
    return Meaning("word", name, _word_form(name, word), "", word.doc)


def _word_form(name: str, word: Word) -> str:
    if word.takes_pool:
        return f"{name}(POOL)"
    settings = ", ".join(f"{each} = ..." for each in word.settings)
    return f"{name}({settings})" if settings else name
