"""The frequent mistakes of form: examples of each, and what to say about it.

A text is labelled like the example that stops the parser in the same state at the same kind of
token (Jeffery, "Generating LR syntax error messages from examples", 2003). A table only.
"""

from dataclasses import dataclass

FILTER = "a filter is written `where`"
MISSING_ELSE = "the `else` of this conditional is missing"


@dataclass(frozen=True, slots=True)
class Mistake:
    """`examples` are declarations; `replacement` mends the token that stops the parser.

    `of_step`: it is the whole step so far that is wrong, not the token that stops the parser.
    """

    message: str
    help: str
    examples: tuple[str, ...]
    replacement: str | None = None
    of_step: bool = False


# Where two examples stop alike, the first counts.
MISTAKES: tuple[Mistake, ...] = (
    Mistake(
        FILTER,
        "`if` belongs to `x if c else y`; write `for w in POOL where COND`",
        (
            "let a = argmin(load(w) for w in p if load(w) > 1s)",
            "let a = [w for w in p if load(w) > 1s]",
        ),
    ),
    Mistake(
        "`=` gives a name to a value; it does not compare",
        "compare with `==`",
        ("route a when b = c { generate on d }", "let a = b = c", "let a = 1 if b = c else 2"),
    ),
    Mistake(
        "a step says where: `generate on WORKER`",
        "",
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
        "`compute` places a range: `compute prompt[:50%] on WORKER`",
        "",
        (
            "route a { compute on d }",
            "route a { compute 5 on d }",
            "route a { compute 5% on d }",
            "route a { compute d on d }",
            "route a { compute [:5] on d }",
            "route a { compute (d) on d }",
        ),
    ),
    Mistake(
        "`compute` runs on a worker: `compute RANGE on WORKER`",
        "",
        ("route a { compute prompt from d }", "route a { compute prompt to d }"),
    ),
    Mistake(
        "`reuse` takes from a worker: `reuse RANGE from WORKER`",
        "",
        ("route a { reuse prompt on d }", "route a { reuse prompt to d }"),
    ),
    Mistake(
        "`replicate` copies to a worker: `replicate RANGE to WORKER`",
        "",
        ("route a { replicate prompt on d }", "route a { replicate prompt from d }"),
    ),
    Mistake(
        "a part of the prompt has two bounds: `prompt[a:b]`, `prompt[:a]` or `prompt[a:]`",
        "",
        ("route a { compute prompt[5] on d }", "route a { compute prompt[] on d }"),
    ),
    Mistake(
        MISSING_ELSE,
        "write `x if c else y`",
        ("let a = 1 if b", "route a when 1 if b { generate on d }"),
    ),
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
        "a param says the range it may be set in",
        "write `param NAME = CONST in LO..HI`",
        ("param a = 5", "param a = 5 { }"),
    ),
    Mistake(
        "the range of a param has two ends: `LO..HI`",
        "",
        ("param a = 5 in 5",),
    ),
    Mistake(
        "`adapt` says how often: `adapt every 5s { ... }`",
        "",
        ("adapt { a = 5 }", "adapt a = 5", "adapt 5s { a = 5 }"),
    ),
    Mistake(
        "a strategy says in a text what it does",
        'write `strategy NAME "what it does"`',
        ("strategy a", "strategy a 5", "strategy a b c", "strategy a = 5"),
    ),
    Mistake(
        "a test has a title",
        'write `test "what is shown" { ... }`',
        ("test { expect route a }", "test a { expect route a }"),
    ),
    Mistake(
        "a given fixes an observation or a binding: `given tokens(prompt) = 4000`",
        "",
        ('test "a" { given 5 = 3 }', 'test "a" { given a > 3 }', 'test "a" { given a == 3 }'),
    ),
    Mistake(
        "a setting is written `name = value`",
        "",
        ("pool a { b: 4 }", "pool a { b = 5 c: 4 }", "slo { b: 4 }", "limits { b: 4 }"),
        replacement=" =",
    ),
    Mistake(
        "a setting is written `name = value`",
        "`==` compares; write `=`",
        ("pool a { b == 4 }", "slo { b == 4 }", "limits { b == 4 }"),
        replacement="=",
    ),
    Mistake(
        "a setting is written `name = value`",
        "",
        ("pool a { b 4 }", "slo { b 4s }", "limits { b 4s }", "pool a { b }", "pool a { b c }"),
    ),
    Mistake(
        "settings stand side by side, without commas",
        "leave the comma out",
        ("pool a { b = 4, c = 5 }", "slo { b = 4s, c = 5s }", "adapt every 5s { a = 4, b = 5 }"),
        replacement="",
    ),
    Mistake(
        "the settings of a pool stand in braces",
        "write `pool NAME { workers = 4 }`",
        ("pool a: b", "pool a = 4", "pool a (b = 4)", "pool a [4]", "pool a with"),
    ),
    Mistake(
        "a route's condition begins with `when`",
        "",
        ("route a if b { generate on d }", "route a where b { generate on d }"),
        replacement="when",
    ),
    Mistake(
        "the steps of a route stand in braces",
        "write `route NAME when COND { generate on WORKER }`",
        (
            "route a when b: generate on d",
            "route a: generate on d",
            "route a when b generate on d",
            "route a generate on d",
            "route a when b compute prompt on d",
            "route a compute prompt on d",
            "route a when b reuse prompt from d",
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
        "write `route NAME when COND { ... }`",
        ("route a b { generate on d }", "route a (b) { generate on d }"),
    ),
    Mistake(
        "`in` asks nothing here",
        "it belongs to `for w in POOL` and to a param's range; workers are compared with `==`",
        ("route a when b in c { generate on d }", "let a = 1 if b in c else 2"),
    ),
    Mistake(
        "the lines of a test stand in braces",
        'write `test "what is shown" { ... }`',
        (
            'test "a" expect route b',
            'test "a" given b = 5',
            'test "a": expect route b',
            'test "a" cluster b = 5',
        ),
    ),
    Mistake(
        "the length of the prompt is `tokens(prompt)`",
        "write `given tokens(prompt) = 4000`",
        ('test "a" { given prompt = 5 }',),
    ),
    Mistake(
        "what is given is written with `=`",
        "",
        (
            'test "a" { given f(a) == 3 }',
            'test "a" { given f(a): 3 }',
            'test "a" { given f(a) > 3 }',
        ),
        replacement="=",
    ),
    Mistake(
        "a route is expected by its name",
        "write `expect route NAME`",
        ('test "a" { expect route = b }', 'test "a" { expect route == b }'),
        replacement="",
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
        "write one route per case, or choose a worker with `x if c else y`",
        (
            "route a { if b { generate on d } }",
            "route a when b { if b { generate on d } }",
            "route a { when b { generate on d } }",
            "route a { generate on d when b }",
            "route a when b { generate on d when b }",
        ),
    ),
    Mistake(
        "names are given outside of routes",
        "write `let NAME = VALUE` above the route",
        (
            "route a { let b = c generate on d }",
            "route a when b { let b = c }",
            "route a { generate on d let b = c }",
            "route a when b { generate on d let b = c }",
            "route a { b = c }",
            "route a when b { b = c }",
        ),
    ),
    Mistake(
        "a definition is one expression behind `=`",
        "write `def f(x) = x + 1`",
        ("def f(x) { x }", "def f(x): x", "def f(x) x"),
    ),
    Mistake(
        "a definition has its parameters in parentheses",
        "write `def f(x) = x + 1`; without parameters it is a `let`",
        ("def f = 5", "def f: 5", "def f x = 5"),
    ),
    Mistake(
        "a part of the prompt is written with a colon",
        "write `prompt[a:b]`, `prompt[:a]` or `prompt[a:]`",
        (
            "route a { compute prompt[0..10] on d }",
            "route a { compute prompt[..10] on d }",
            "route a { compute prompt[0, 10] on d }",
            "route a { compute prompt[0 to 10] on d }",
        ),
    ),
    Mistake(
        "a part of the prompt has two bounds and no step",
        "write `prompt[a:b]`, `prompt[:a]` or `prompt[a:]`",
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
    Mistake(
        "`compute` says on which worker: `compute RANGE on WORKER`",
        "",
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
        "the range of a param is written `LO..HI`",
        "write `param NAME = CONST in LO..HI`",
        (
            "param a = 5 in [0, 90]",
            "param a = 5 in [0%, 90%]",
            "param a = 5 in [0s, 90s]",
            "param a = 5 in [0:90]",
            "param a = 5 in 0:90",
            "param a = 5 in 0 to 90",
            "param a = 5 in 0, 90",
            "param a = 5 in (0, 90)",
        ),
    ),
    Mistake(
        "the default of a param is missing",
        "write `param NAME = CONST in LO..HI`",
        ("param a in 0..5", "param a: 5", "param a 5"),
    ),
    Mistake(
        "a comprehension names its variable and its pool",
        "write `argmin(load(w) for w in POOL where COND)`",
        (
            "let a = f(b in c)",
            "let a = f(b for c)",
            "let a = f(b for c, d)",
            "let a = f(for w in c)",
            "let a = f(w for w of c)",
            "let a = f(w where c)",
        ),
    ),
    Mistake(
        "arguments are given by position, without names",
        "",
        ("let a = f(b = 5)", "let a = f(c, b = 5)", "let a = f(b: 5)"),
    ),
    Mistake(
        "a list of workers is written `[w for w in POOL where COND]`",
        "name each worker's pool, or choose among all: `argmin(load(w) for w in POOL)`",
        ("let a = [b, c]", "let a = [b]", "let a = [5]", "let a = []"),
    ),
    Mistake(
        "a binding does not say its type",
        "write `let NAME = VALUE`",
        ("let a: b = 5",),
    ),
    Mistake(
        "a binding is written `let NAME = VALUE`",
        "",
        ("let a 5", "let a b", "let a(x) = 5", "let a in b", "let a -> b"),
    ),
    Mistake(
        "a strategy's name is a word: letters, digits and `_`",
        'write `strategy NAME "what it does"`',
        ('strategy "a"', "strategy 5", 'strategy a-b "c"'),
    ),
    Mistake(
        "a strategy has no braces: its declarations follow it",
        'write `strategy NAME "what it does"` on top',
        ("strategy a {",),
    ),
    Mistake(
        "`expect` takes a route, what is sent, or a value",
        "write `expect route NAME`, `expect sends [:a] from W to V` or `expect d = W`",
        ('test "a" { expect }', 'test "a" { expect sends prompt }', 'test "a" { expect route }'),
        of_step=True,
    ),
    Mistake(
        "`adapt` holds `param = value`",
        "write `adapt every 5s { tail = mean(kv_used(w) for w in POOL) }`",
        ("adapt every 5s { a: 5 }", "adapt every 5s { let a = 5 }", "adapt every 5s a = 5"),
    ),
)
