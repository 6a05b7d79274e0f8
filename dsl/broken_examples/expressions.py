"""Mistakes inside expressions: comprehensions, conditionals, comparisons, brackets."""

from mserve.dsl.broken_examples.mistake import Mistake

FILTER = Mistake(
    "a filter is written `where`",
    "`if` belongs to `x if c else y`; write `for w in POOL where COND`",
    (
        "let a = argmin(load(w) for w in p if load(w) > 1s)",
        "let a = [w for w in p if load(w) > 1s]",
    ),
)
MISSING_ELSE = Mistake(
    "the `else` of this conditional is missing",
    "write `x if c else y`",
    ("let a = 1 if b", "route a when 1 if b { generate on d }"),
)
MISTAKES = (
    FILTER,
    Mistake(
        "`=` gives a name to a value; it does not compare",
        "compare with `==`",
        ("route a when b = c { generate on d }", "let a = b = c", "let a = 1 if b = c else 2"),
    ),
    MISSING_ELSE,
    Mistake(
        "`in` asks nothing here",
        "it belongs to `for w in POOL` and to a param's range; ask for one value after the other: "
        '`tenant == "a" or tenant == "b"`',
        ("route a when b in c { generate on d }", "let a = 1 if b in c else 2"),
    ),
    Mistake(
        "what is observed of each worker needs a variable and its pool",
        "write `for w in POOL`: `argmin(load(w) for w in decode)`",
        (
            "let a = f(b in c)",
            "let a = f(b for c)",
            "let a = f(b for c, d)",
            "let a = f(for w in c)",
            "let a = f(w for w of c)",
            "let a = f(w where c)",
            "let a = f(w from c)",
            "let a = f(b(w) from c)",
            "let a = f(b(w) in c)",
        ),
    ),
    Mistake(
        "arguments are given by position, without names",
        "write `min(a, b)`; to compare workers, `argmin(load(w) for w in POOL)`",
        ("let a = f(b = 5)", "let a = f(c, b = 5)", "let a = f(b: 5)"),
    ),
    Mistake(
        "workers come from a pool, not from a list",
        "choose among all: `argmin(load(w) for w in POOL)`; of two: `a if load(a) < load(b) else b`",
        ("let a = [b, c]", "let a = [b]", "let a = [5]", "let a = []"),
    ),
    Mistake(
        "a filter keeps workers: it begins with its variable",
        "write `[w for w in POOL where COND]`; for a value of each, `min(load(w) for w in POOL)`",
        ("let a = [f(w) for w in c]",),
    ),
    Mistake(
        "there are no braces in an expression",
        "a filtered pool stands in brackets: `[w for w in POOL where COND]`",
        ("let a = {b for b in c}", "let a = f({b})"),
    ),
    Mistake(
        "`[...]` holds a worker's position, in tests: `decode[0]`",
        "an observation is called: `load(d)`; a worker is chosen: `argmin(load(w) for w in POOL)`",
        ("let a = b[c]", "let a = b[:5]", "let a = b[-1]"),
    ),
    Mistake(
        "an HTTP header is `header(FOUND)`",
        "",
        ('let a = b["c"]',),
    ),
    Mistake(
        "`where` stands inside the parentheses",
        "write `argmin(load(w) for w in POOL where COND)`",
        ("let a = f(w for w in b) where c", "route a when b { generate on d where c }"),
    ),
)
