"""Rules about names: what they refer to, that they are told apart, that they are used."""

from collections.abc import Iterable, Sequence

from mserve.dsl.diagnostics import Diagnostic, Edit, Label, Severity
from mserve.dsl.habits import Habit
from mserve.dsl.suggestion import nearest
from mserve.dsl.syntax import Span

_MAX_LISTED = 8


def unknown_name(
    span: Span,
    name: str,
    kind: str,
    known: Iterable[str],
    habit: Habit | None = None,
    listed: Iterable[str] = (),
) -> Diagnostic:
    """A name refers to nothing.

    What it does: reports names that are neither declared in the file nor built in. Declarations may
    stand in any order; routes have a namespace of their own (`ttft(ROUTE)`, `expect route ROUTE`).
    Inside `for w in POOL` a worker is named `w`, and nowhere else.

    Why it is wrong: there is nothing to evaluate.

    Example:

        let idle = argmin(laod(w) for w in decode)

    Use instead:

        let idle = argmin(load(w) for w in decode)
    """
    meant = nearest(name, known)
    if habit is not None and (meant is None or habit.replacement is not None):
        return _brought_along(span, habit)
    return Diagnostic(
        "unknown-name",
        f"there is no {kind} `{name}`",
        (Label(span, f"did you mean `{meant}`?" if meant else ""),),
        "" if meant else _listed(list(listed)),
        fix=(Edit(span, meant),) if meant else (),
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:_MAX_LISTED])
    more = ", ..." if len(names) > _MAX_LISTED else ""
    return f"there are {shown}{more}" if names else ""


def unknown_variable(span: Span, name: str, variable: str, introduced: Span) -> Diagnostic:
    """An `unknown-name` where the variable of the comprehension around it was meant."""
    labels = Label(span, f"did you mean `{variable}`?"), Label(introduced, "names each worker")
    message = f"there is no worker `{name}` in this comprehension"
    return Diagnostic("unknown-name", message, labels, fix=(Edit(span, variable),))


def _brought_along(span: Span, habit: Habit) -> Diagnostic:
    """A name of another language."""
    fix = () if habit.replacement is None else (Edit(span, habit.replacement),)
    return Diagnostic("unknown-name", habit.message, (Label(span),), habit.help, fix=fix)


def duplicate_name(
    span: Span, name: str, kind: str, first: Span | None, first_kind: str
) -> Diagnostic:
    """A name is given twice.

    What it does: reports a second declaration of a name, a setting that is set twice, a parameter
    of a definition named like something declared, and names of built-ins. Routes have a namespace
    of their own, and so have the titles of tests.

    Why it is wrong: a reader could not tell which of the two is meant.

    Example:

        let load = max(queued(w) for w in decode)

    Use instead:

        let longest = max(queued(w) for w in decode)
    """
    if first is None:
        message = f"`{name}` is built into the language"
        hint = f"choose another name, such as `my_{name}`"
        return Diagnostic("duplicate-name", message, (Label(span, f"cannot be {kind}"),), hint)
    labels = (Label(span, f"{kind} of the same name"), Label(first, first_kind))
    hint = "leave one of them out" if kind == "a value" else "rename one of them"
    return Diagnostic("duplicate-name", f"there are two of the name `{name}`", labels, hint)


def comprehension_variable_shadows(
    span: Span, name: str, hidden: Span | None, hidden_kind: str
) -> Diagnostic:
    """A comprehension's variable hides another name.

    What it does: reports `for NAME in ...` where NAME already means something: a declaration, a
    built-in, a parameter or the variable of a comprehension around it.

    Why it is wrong: inside the comprehension the name means a worker, outside something else.

    Example:

        let home = argmax(cached(w) for w in workers)
        let idle = argmin(load(home) for home in workers)

    Use instead:

        let home = argmax(cached(w) for w in workers)
        let idle = argmin(load(w) for w in workers)
    """
    labels = [Label(span, "means a worker inside this comprehension")]
    if hidden is not None:
        labels.append(Label(hidden, hidden_kind))
    message = f"the variable `{name}` hides {hidden_kind} of the same name"
    hint = f"choose another variable: `for {'v' if name == 'w' else 'w'} in ...`"
    return Diagnostic("comprehension-variable-shadows", message, tuple(labels), hint)


def recursive_definition(cycle: Sequence[tuple[str, Span]], variable: str = "") -> Diagnostic:
    """A binding, definition or route depends on itself.

    What it does: reports cycles through `let`, `def` and `ttft(ROUTE)` (which looks at the workers
    and ranges of that route's steps, not at its guard).

    Why it is wrong: evaluation must end, and there would be no value to begin with.

    Example:

        let a = b + 1
        let b = a - 1

    Use instead:

        let a = tokens(prompt)
        let b = a - 1
    """
    names = [name for name, _ in cycle]
    path = " -> ".join(f"`{name}`" for name in [*names, names[0]])
    labels = tuple(
        Label(span, "depends on itself" if len(cycle) == 1 else f"needs `{after}`")
        for (_, span), after in zip(cycle, [*names[1:], names[0]], strict=True)
    )
    hint = "let one of them do without the other" if len(cycle) > 1 else ""
    if variable:
        hint = f"each worker of the comprehension is named `{variable}`, not `{names[0]}`"
    return Diagnostic("recursive-definition", f"{path} goes round in circles", labels, hint)


def unused_binding(span: Span, name: str, kind: str) -> Diagnostic:
    """A `let` or `def` that nothing uses.

    What it does: warns of bindings and definitions that no guard, step, test or used binding
    refers to, and of `argmin`, `argmax` and `two_choices` that do not look at their variable.

    Why it is wrong: a binding that is never evaluated was most likely meant to be used; a choice
    among equals is no choice.

    Example:

        let idle = argmin(load(w) for w in decode)
        route only { generate on next(decode) }

    Use instead:

        let idle = argmin(load(w) for w in decode)
        route only { generate on idle }
    """
    hint = "use it in a guard or a step, or leave it out"
    return _unused("unused-binding", span, f"{kind} `{name}` is never used", hint)


def unused_variable(span: Span, name: str, value: Span) -> Diagnostic:
    """An `unused-binding` of a choice whose value is the same for all workers."""
    labels = Label(value, "the same for every worker"), Label(span, "names each worker")
    message = f"this choice does not look at `{name}`"
    hint = f"observe each worker: `load({name})`"
    return Diagnostic("unused-binding", message, labels, hint, Severity.WARNING)


def unused_param(span: Span, name: str) -> Diagnostic:
    """A param that nothing reads.

    What it does: warns of params that no expression reads (being set by `adapt` is no use).

    Why it is wrong: whoever tunes it, sweeps it or pays for its sweep changes nothing.

    Example:

        param tail = 10% in 0%..90%
        route only { compute prompt[:90%] on p  generate on d }

    Use instead:

        param tail = 10% in 0%..90%
        route only { compute prompt[:100% - tail] on p  generate on d }
    """
    hint = "read it in a guard, a step or a `let`, or leave it out"
    return _unused("unused-param", span, f"param `{name}` is never read", hint)


def unused_pool(span: Span, name: str) -> Diagnostic:
    """A pool on whose workers no step can run.

    What it does: warns of pools that no step's worker can come from and that are no other pool's
    `peer`.

    Why it is wrong: its workers are started, cost money and idle.

    Example:

        pool prefill
        pool decode
        route only { generate on next(decode) }

    Use instead:

        pool decode
        route only { generate on next(decode) }
    """
    hint = f"place a step on one, as in `generate on next({name})`, or leave the pool out"
    return _unused("unused-pool", span, f"no step can run on a worker of pool `{name}`", hint)


def _unused(rule: str, span: Span, message: str, hint: str) -> Diagnostic:
    return Diagnostic(rule, message, (Label(span),), hint, severity=Severity.WARNING)
