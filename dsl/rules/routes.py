"""Rules about routes: the decision table as a whole, and the steps of each."""

from mserve.dsl.diagnostics import Diagnostic, Label, Severity
from mserve.dsl.syntax import Span


def missing_generate(span: Span, name: str, handoff: Span | None = None) -> Diagnostic:
    """A route without `generate`.

    What it does: reports routes that never say where the answer is generated, and `generate K on
    A` without the `generate on B` that takes over after K tokens.

    Why it is wrong: the request would never get its answer.

    Example:

        route split { compute prompt[:90%] on p }

    Use instead:

        route split {
          compute prompt[:90%] on p
          generate on d
        }
    """
    if handoff is None:
        message = f"route `{name}` never says where the answer is generated"
        return Diagnostic(
            "missing-generate", message, (Label(span),), help="end it with `generate on WORKER`"
        )
    return Diagnostic(
        "missing-generate",
        f"route `{name}` hands the answer over, and no step goes on with it",
        (Label(handoff, "generates so many tokens and hands over"),),
        help="add `generate on WORKER` below, or leave the count out",
    )


def steps_after_generate(span: Span, generate: Span, message: str, help: str) -> Diagnostic:
    """A step that can only come before `generate`, or a second `generate`.

    What it does: reports `compute` and `reuse` below a `generate`, and further `generate` steps
    (but `generate K on A` may be followed by one `generate on B`). `replicate` may stand anywhere:
    it runs in the background.

    Why it is wrong: once generation runs, the whole prompt has been computed, and an answer that
    is generated to its end on A has nothing left for B.

    Example:

        generate on d
        compute prompt[:50%] on p

    Use instead:

        compute prompt[:50%] on p
        generate on d
    """
    labels = Label(span), Label(generate, "generation begins here")
    return Diagnostic("steps-after-generate", message, labels, help)


def no_fallback_route(span: Span, name: str | None, pool: str = "POOL") -> Diagnostic:
    """The last route has a guard, or there is no route.

    What it does: demands that the last route has no `when`.

    Why it is wrong: requests for which no guard holds would wait until they time out.

    Example:

        route short when tokens(prompt) < 256 { generate on d }

    Use instead:

        route short when tokens(prompt) < 256 { generate on d }
        route long { generate on next(workers) }
    """
    if name is None:
        message = "the strategy has no route"
        hint = f"add one: `route all {{ generate on next({pool}) }}`"
    else:
        message = f"no route is left when the guard of `{name}` does not hold"
        hint = f"end with a route without `when`: `route other {{ generate on next({pool}) }}`"
    return Diagnostic("no-fallback-route", message, (Label(span),), hint)


def self_transfer(span: Span, other: Span | None, message: str, help: str = "") -> Diagnostic:
    """KV is moved from a worker to the same worker.

    What it does: reports `generate K on W` followed by `generate on W`, `replicate` to the worker
    that generates, `reuse` from the only worker of its route, and tests that expect sends from a
    worker to itself. Workers are the same if their expressions are.

    Why it is wrong: nothing is moved, so most likely another worker was meant.

    Example:

        generate on d
        replicate prompt to d

    Use instead:

        generate on d
        replicate prompt to spare
    """
    labels = [Label(span)] if other is None else [Label(span), Label(other, "the same worker")]
    return Diagnostic("self-transfer", message, tuple(labels), help)


def unreachable_route(span: Span, name: str, because: Span, guard: bool) -> Diagnostic:
    """A route that can never be taken.

    What it does: warns of a route after one without `when` whose workers it also needs, and of one
    that repeats an earlier guard and also needs that route's workers. (A route whose workers are
    missing is passed over, so a later one may still be a fallback for other workers.)

    Why it is wrong: it has no effect, so the order is most likely not the one that was meant.

    Example:

        route all { generate on d }
        route short when tokens(prompt) < 256 { generate on d }

    Use instead:

        route short when tokens(prompt) < 256 { generate on d }
        route all { generate on d }
    """
    label = "the same guard stands here" if guard else "always taken first"
    return Diagnostic(
        "unreachable-route",
        f"route `{name}` is never taken",
        (Label(span), Label(because, label)),
        "change its condition, or leave it out" if guard else "move it above that route",
        severity=Severity.WARNING,
    )


def constant_guard(span: Span, name: str, holds: bool, help: str = "") -> Diagnostic:
    """A guard that always, or never, holds.

    What it does: evaluates guards over the ranges of literals, params and what is known of
    observations (a length is never negative, a share never above 1), and warns if all values give
    the same answer.

    Why it is wrong: it decides nothing: the route, or those below it, are never taken.

    Example:

        param tail = 10% in 0%..50%
        route short when tail > 60% { generate on d }

    Use instead:

        param tail = 10% in 0%..90%
        route short when tail > 60% { generate on d }
    """
    always = "always" if holds else "never"
    hint = "leave the `when` out" if holds else "no request takes this route: leave it out"
    return Diagnostic(
        "constant-guard",
        f"the guard of route `{name}` {always} holds",
        (Label(span, f"is {always} true"),),
        help or f"{hint}, or compare with another value",
        severity=Severity.WARNING,
    )


def too_expensive(span: Span, message: str) -> Diagnostic:
    """An expression that takes too long to evaluate.

    What it does: bounds the work of a decision before it runs: comprehensions inside comprehensions
    multiply by the number of workers, definitions count as often as they are used and may build on
    each other at most 100 deep, bindings (with what each of them holds) 300 deep.

    Why it is wrong: a decision stands between the request and its first token.

    Example:

        def two(x) = x + x
        def four(x) = two(two(x))        # ... and so on, twenty times

    Use instead:

        def four(x) = 4 * x
    """
    hint = "give a name to a part of it with `let`: that is evaluated once"
    return Diagnostic("too-expensive", message, (Label(span),), hint)
