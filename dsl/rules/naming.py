"""Rules about names: what they refer to, that they are told apart, that they are used."""

from collections.abc import Iterable, Sequence

from mserve.dsl.diagnostics import Diagnostic, Edit, Label, Severity
from mserve.dsl.habits import Habit
from mserve.dsl.suggestion import nearest
from mserve.dsl.syntax import Span


def unknown_name(
    span: Span, name: str, kind: str, known: Iterable[str], habit: Habit | None = None
) -> Diagnostic:
    """A name refers to nothing.

    What it does: reports names that are neither declared in the file nor built in. Declarations may
    stand in any order; routes have a namespace of their own (`ttft(ROUTE)`, `expect route ROUTE`).

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
        fix=(Edit(span, meant),) if meant else (),
    )


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
    of their own.

    Why it is wrong: a reader could not tell which of the two is meant.

    Example:

        let load = max(queued(w) for w in decode)

    Use instead:

        let longest = max(queued(w) for w in decode)
    """
    if first is None:
        message = f"`{name}` is built into the language"
        return Diagnostic("duplicate-name", message, (Label(span, f"cannot be {kind}"),))
    labels = (Label(span, f"{kind} of the same name"), Label(first, first_kind))
    return Diagnostic("duplicate-name", f"there are two of the name `{name}`", labels)


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
    return Diagnostic("comprehension-variable-shadows", message, tuple(labels))


def recursive_definition(cycle: Sequence[tuple[str, Span]]) -> Diagnostic:
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
    return Diagnostic("recursive-definition", f"{path} goes round in circles", labels)


def unused_binding(span: Span, name: str, kind: str) -> Diagnostic:
    """A `let` or `def` that nothing uses.

    What it does: warns of bindings and definitions that no guard, step, test or used binding
    refers to.

    Why it is wrong: it is never evaluated, so most likely something else was meant to use it.

    Example:

        let idle = argmin(load(w) for w in decode)
        route only { generate on next(decode) }

    Use instead:

        let idle = argmin(load(w) for w in decode)
        route only { generate on idle }
    """
    return _unused("unused-binding", span, f"{kind} `{name}` is never used")


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
    return _unused("unused-param", span, f"param `{name}` is never read")


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
    return _unused("unused-pool", span, f"no step can run on a worker of pool `{name}`")


def _unused(rule: str, span: Span, message: str) -> Diagnostic:
    return Diagnostic(rule, message, (Label(span),), severity=Severity.WARNING)
