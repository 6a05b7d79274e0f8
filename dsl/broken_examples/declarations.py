"""Mistakes in the other declarations: the strategy's head, pools, bindings, definitions, params."""

from mserve.dsl.broken_examples.mistake import Mistake

_HEAD = 'write `strategy NAME "what it does"`'
_PARAM = "write `param NAME = DEFAULT in LOW..HIGH`"

_NAMES = (
    Mistake(
        "a strategy's name is a word: letters, digits and `_`",
        'write `strategy my_strategy "what it does"`',
        ("strategy 5", 'strategy a-b "c"'),
    ),
    Mistake(
        "a strategy's name is written without quotes",
        'write `strategy WORD "what it does"`',
        ('strategy "a"',),
    ),
    Mistake(
        "names are written without quotes",
        "write `WORD`",
        (
            'pool "a" { b = 4 }',
            'route "a" { generate on d }',
            'let "a" = 5',
            'param "a" = 5 in 1..9',
            'test "a" { expect route "b" }',
        ),
    ),
    Mistake(
        "the name of this pool is missing",
        "write `pool decode`, with settings `pool decode { workers = 4 }`",
        ("pool { b = 4 }", "pool: b", "pool = 4"),
    ),
    Mistake(
        "each declaration has one name",
        "write one `pool` for each",
        ("pool a, b",),
    ),
    Mistake(
        "each declaration has one name",
        "write one `let` for each",
        ("let a = 1, b = 2", "let a, b = 1"),
    ),
)

_SETTINGS = (
    Mistake(
        "a setting is written `name = value`",
        "write `BEFORE = VALUE`",
        ("pool a { b: 4 }", "pool a { b = 5 c: 4 }", "slo { b: 4 }", "limits { b: 4 }"),
        replacement=" =",
    ),
    Mistake(
        "a setting is written `name = value`",
        "`FOUND` compares; write `BEFORE = VALUE`",
        ("pool a { b == 4 }", "slo { b == 4 }", "limits { b == 4 }"),
        replacement="=",
    ),
    Mistake(
        "a setting is written `name = value`",
        "write `BEFORE = VALUE`",
        (
            "pool a { b 4 }",
            "slo { b 4s }",
            "limits { b 4s }",
            "pool a { b }",
            "pool a { b c }",
            'pool a { b "c" }',
            "pool a { b true }",
            "pool a { b { } }",
        ),
    ),
    Mistake(
        "settings stand side by side, without commas",
        "leave the comma out",
        (
            "pool a { b = 4, c = 5 }",
            "pool a { b = 4 c = 5, e = 6 }",
            "slo { b = 4s, c = 5s }",
            "slo { b = 4s c = 5s, e = 6s }",
            "limits { b = 4s, c = 5s }",
            "adapt every 5s { a = 4, b = 5 }",
        ),
        replacement="",
    ),
    Mistake(
        "the number of workers is a setting, and settings stand in braces",
        "write `pool NAME { workers = VALUE }`",
        ("pool a = 4", "pool a (b = 4)", "pool a [4]", "pool a 4"),
    ),
    Mistake(
        "the settings of a pool stand in braces",
        "write `pool NAME { workers = 4 }`",
        ("pool a: b", "pool a with"),
    ),
    Mistake(
        "`adapt` says how often",
        "write `adapt every 5s { tail = ... }`",
        ("adapt { a = 5 }", "adapt a = 5", "adapt 5s { a = 5 }"),
    ),
    Mistake(
        "`adapt` holds `param = value`",
        "write `adapt every 5s { tail = mean(kv_used(w) for w in POOL) }`",
        ("adapt every 5s { a: 5 }", "adapt every 5s { let a = 5 }", "adapt every 5s a = 5"),
    ),
)

_STRATEGY = (
    Mistake(
        "a strategy's name follows without a sign",
        'write `strategy AFTER "what it does"`',
        ("strategy: a", "strategy = a"),
    ),
    Mistake(
        "a strategy says in a text what it does",
        _HEAD,
        ("strategy a", "strategy a 5", "strategy a b c", "strategy a = 5"),
    ),
    Mistake(
        "a strategy has no braces: its declarations follow it",
        f"{_HEAD} on top",
        ("strategy a {", 'strategy a "b" {'),
    ),
)

_BINDINGS = (
    Mistake(
        "a binding does not say its type",
        "write `let NAME = ...`",
        ("let a: b = 5",),
    ),
    Mistake(
        "a binding is written with `=`",
        "write `let NAME = ...`",
        ("let a 5", "let a b", "let a(x) = 5", "let a in b", "let a -> b"),
    ),
    Mistake(
        "`let NAME` has no value",
        "write `let NAME = ...`",
        ("let a =", "let a"),
    ),
    Mistake(
        "a definition is one expression behind `=`",
        "write `def NAME(x) = x + 1`",
        ("def f(x) { x }", "def f(x): x", "def f(x) x"),
    ),
    Mistake(
        "a definition has its parameters in parentheses",
        "write `def NAME(x) = x + 1`; without parameters it is a `let`",
        ("def f = 5", "def f: 5", "def f x = 5"),
    ),
    Mistake(
        "a parameter does not say its type, and has no default",
        "write `def NAME(BEFORE) = ...`",
        ("def f(x: y) = 5", "def f(x = 5) = 5"),
    ),
)

_PARAMS = (
    Mistake(
        "a param says in which range it may be set while serving",
        _PARAM,
        (
            "param a = 5",
            "param a = 5 { }",
            "param a = 5 0..9",
            "param a = 5 b 0..9",
            "param a = 5% 0%..9%",
            "param a = 5s 0s..9s",
        ),
    ),
    Mistake(
        "the range of a param has two ends",
        _PARAM,
        ("param a = 5 in 5",),
    ),
    Mistake(
        "the range of a param is written `LOW..HIGH`",
        _PARAM,
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
        _PARAM,
        ("param a in 0..5", "param a: 5", "param a 5", "param a { }"),
    ),
)

MISTAKES = (*_NAMES, *_SETTINGS, *_STRATEGY, *_BINDINGS, *_PARAMS)
