"""Mistakes in tests: titles, what is given, what is expected."""

from mserve.dsl.broken_examples.mistake import Mistake

_EXPECT = "write `expect route NAME`, `expect sends [:a] from W to V` or `expect d = W`"

MISTAKES = (
    Mistake(
        "a test has a title, in quotes",
        'write `test "what is shown" { ... }`',
        ("test { expect route a }", "test a { expect route a }"),
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
        "what is given is an observation or a binding",
        "write `given tokens(prompt) = 4000` or `given load(decode[0]) = 5s`",
        ('test "a" { given 5 = 3 }', 'test "a" { given a > 3 }', 'test "a" { given a == 3 }'),
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
        "what is given is separated by commas",
        "write `given tokens(prompt) = 4000, load(decode[0]) = 5s`",
        ('test "a" { given f(a) = 3 and f(b) = 4 }',),
    ),
    Mistake(
        "`cluster` says how many workers a pool has",
        "write `cluster BEFORE = AFTER`",
        ('test "a" { cluster b[2] }', 'test "a" { cluster b: 2 }', 'test "a" { cluster b(2) }'),
    ),
    Mistake(
        "`cluster` says how many workers a pool has",
        "write `cluster decode = 2, prefill = 4`",
        ('test "a" { cluster { b = 2 } }', 'test "a" { cluster 2 }', 'test "a" { cluster b }'),
    ),
    Mistake(
        "a route is expected by its name",
        "write `expect route AFTER`",
        ('test "a" { expect route = b }', 'test "a" { expect route == b }'),
        replacement="",
    ),
    Mistake(
        "the tokens that are sent stand in brackets",
        "write `expect sends [0:1000] from prefill[0] to decode[0]`",
        (
            'test "a" { expect sends prompt from b to c }',
            'test "a" { expect sends 0:100 from b to c }',
            'test "a" { expect sends from b to c }',
        ),
    ),
    Mistake(
        "`expect` takes a route, what is sent, or a value",
        _EXPECT,
        (
            'test "a" { expect }',
            'test "a" { expect route }',
            'test "a" { expect generate on d }',
            'test "a" { expect route a on d }',
        ),
        of_step=True,
    ),
)
