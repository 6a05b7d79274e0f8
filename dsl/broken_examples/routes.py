"""Mistakes in routes: their heads, their steps, the ranges of the prompt."""

from mserve.dsl.broken_examples.mistake import Mistake

_RANGE = "write `prompt[a:b]`, `prompt[:a]` or `prompt[a:]`"
_NOT_IN_ROUTES = "write one route per case, or choose a worker: `generate on a if COND else b`"

_STEPS = (
    Mistake(
        "`generate` says where with `on`",
        "write `generate on WORKER`",
        (
            "route a { generate }",
            "route a { generate d }",
            "route a { generate 5 }",
            "route a { generate d compute rest on d }",
            "route a { generate d reuse rest from d }",
            "route a { generate d replicate prompt to d }",
            "route a { generate d generate on d }",
        ),
        of_step=True,
    ),
    Mistake(
        "a step is no setting: it says where with `on`",
        "write `generate on AFTER`",
        ("route a { generate = d }", "route a { generate: d }"),
    ),
    Mistake(
        "between `generate` and `on` stands nothing, or a count of tokens",
        "write `generate on d`, or `generate 16 on d` to hand over after 16 tokens",
        ("route a { generate 5 b on d }", "route a { generate b d }", "route a { generate to d }"),
    ),
    Mistake(
        "a number alone is no part of the prompt",
        "write `compute prompt[:FOUND] on WORKER`",
        ("route a { compute 5 on d }", "route a { compute 5% on d }"),
    ),
    Mistake(
        "`compute` says what before it says where",
        "write `compute prompt on WORKER`, or a part of it: `compute prompt[:50%] on WORKER`",
        (
            "route a { compute on d }",
            "route a { compute d on d }",
            "route a { compute [:5] on d }",
            "route a { compute (d) on d }",
        ),
    ),
    Mistake(
        "`compute` runs `on` a worker",
        "write `on`; to take what a worker has cached: `reuse prompt from WORKER`",
        (
            "route a { compute prompt from d }",
            "route a { compute prompt to d }",
            "route a { compute prompt in d }",
        ),
    ),
    Mistake(
        "`reuse` takes `from` a worker",
        "write `from`; where it goes follows from the steps below",
        ("route a { reuse prompt on d }", "route a { reuse prompt to d }"),
    ),
    Mistake(
        "`replicate` copies `to` a worker",
        "write `to`",
        ("route a { replicate prompt on d }", "route a { replicate prompt from d }"),
        replacement="to",
    ),
    Mistake(
        "a step names one worker: where KV goes follows from the steps below",
        "leave `FOUND` and the worker behind it out",
        (
            "route a { reuse prompt from d to e }",
            "route a { generate on d from e }",
            "route a { generate on d on e }",
            "route a when b { reuse prompt from d to e }",
            "route a when b { compute prompt on d from e }",
            "route a when b { compute prompt on d on e }",
        ),
    ),
    Mistake(
        "steps stand one after the other, without commas, and each has one worker",
        "leave the comma out",
        (
            "route a { generate on d, generate on d }",
            "route a when b { generate on d, e }",
            "route a when b { compute prompt on d, generate on d }",
            "route a { reuse prompt from d, generate on d }",
        ),
    ),
    Mistake(
        "`compute` says on which worker",
        "write `compute prompt on WORKER`",
        (
            "route a { compute prompt }",
            "route a { compute rest }",
            "route a { compute prompt compute rest on d }",
            "route a { compute prompt generate on d }",
            "route a { compute prompt d }",
        ),
        of_step=True,
    ),
    Mistake(
        "there are no loops: a route names each step",
        "a choice looks at all workers: `argmin(load(w) for w in POOL)`",
        (
            "route a { for w in d { } }",
            "route a when b { for w in d { } }",
            "route a { generate on d for w in d }",
            "route a when b { generate on d for w in d }",
        ),
    ),
    Mistake(
        "steps have no conditions of their own: the route's `when` decides",
        _NOT_IN_ROUTES,
        (
            "route a { if b { generate on d } }",
            "route a when b { if b { generate on d } }",
            "route a { when b { generate on d } }",
            "route a { generate on d when b }",
            "route a when b { generate on d when b }",
        ),
    ),
    Mistake(
        "steps have no conditions of their own: an `if` here chooses a worker",
        _NOT_IN_ROUTES,
        ("route a { generate on d if b }", "route a { compute prompt on d if b generate on d }"),
    ),
    Mistake(
        "names are given outside of routes",
        "write `let x = ...` above the route",
        (
            "route a { let b = c generate on d }",
            "route a when b { let b = c }",
            "route a { generate on d let b = c }",
            "route a when b { generate on d let b = c }",
        ),
    ),
)

_RANGES = (
    Mistake(
        "a part of the prompt has two bounds",
        "the first BEFORE tokens are `prompt[:BEFORE]`, those behind them `prompt[BEFORE:]`",
        ("route a { compute prompt[5] on d }",),
    ),
    Mistake(
        "a part of the prompt has two bounds",
        f"{_RANGE}; all of it is `prompt`",
        ("route a { compute prompt[] on d }",),
    ),
    Mistake(
        "a part of the prompt is written with a colon",
        _RANGE,
        (
            "route a { compute prompt[0..10] on d }",
            "route a { compute prompt[..10] on d }",
            "route a { compute prompt[0, 10] on d }",
            "route a { compute prompt[0 to 10] on d }",
        ),
    ),
    Mistake(
        "a part of the prompt has two bounds and no step",
        _RANGE,
        ("route a { compute prompt[0:10:2] on d }", "route a { compute prompt[::2] on d }"),
    ),
    Mistake(
        "a part of the prompt stands in brackets",
        "write `prompt[:50%]`",
        (
            "route a { compute prompt(5) on d }",
            "route a { compute prompt 50% on d }",
            "route a { compute prompt 50 on d }",
            "route a { compute prompt:50 on d }",
            "route a { reuse prompt 50% from d }",
        ),
    ),
)

_HEADS = (
    Mistake(
        "the name of this route is missing",
        "write `route NAME when COND { ... }`",
        (
            "route when b { generate on d }",
            "route { generate on d }",
            "route if b { generate on d }",
            "route else { generate on d }",
        ),
    ),
    Mistake(
        "a route's condition begins with `when`",
        "write `when`",
        ("route a if b { generate on d }", "route a where b { generate on d }"),
        replacement="when",
    ),
    Mistake(
        "the steps of a route stand in braces",
        "write `route NAME when COND { generate on WORKER }`",
        (
            "route a when b: generate on d",
            "route a when b generate on d",
            "route a when b compute prompt on d",
            "route a when b reuse prompt from d",
        ),
    ),
    Mistake(
        "the steps of a route stand in braces",
        "write `route NAME { generate on WORKER }`",
        (
            "route a: generate on d",
            "route a generate on d",
            "route a compute prompt on d",
            "route a = generate on d",
        ),
    ),
    Mistake(
        "the last route has no condition: leave `else` out",
        "",
        ("route a else { generate on d }",),
        replacement="",
    ),
    Mistake(
        "a route's name is one word, and its condition begins with `when`",
        "write `route NAME when COND { ... }`, or without a condition `route NAME { ... }`",
        ("route a b { generate on d }", "route a (b) { generate on d }"),
    ),
)

MISTAKES = (*_STEPS, *_RANGES, *_HEADS)
