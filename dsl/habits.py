"""What authors bring along from other languages, and how it is written here.

Tables only: of characters that begin no token, of operators that read as several tokens, of words
that stand where a declaration should, of names. Who meets which, and where, is others' business.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Habit:
    """`replacement` is a fix where it is not None; `kind` the token that stands in, if any."""

    message: str
    help: str = ""
    replacement: str | None = None
    kind: str = ""


def _written(found: str, replacement: str, kind: str) -> Habit:
    return Habit(f"`{found}` is written `{replacement}` here", replacement=replacement, kind=kind)


# --- characters that begin no token: the first pattern that matches counts --------------------

QUOTED = re.compile(
    r"""'[^'\r\n]*'|[\u2018\u2019][^\u2018\u2019\r\n]*\u2019|[\u201c\u201d\u201e][^\u201c\u201d\r\n]*[\u201c\u201d]"""
)
_SINGLE_QUOTE = Habit('a text stands in straight double quotes: "..."')
_SPACE = Habit("this blank is a special character", "write a plain blank", replacement=" ")
_REMAINDER = Habit(
    "there is no remainder operator", "a ratio is written without a blank: `10%`", kind="STAR"
)

CHARACTERS: tuple[tuple[re.Pattern[str], Habit], ...] = tuple(
    (re.compile(pattern), habit)
    for pattern, habit in (
        (r"&&?", Habit("`and` is written in letters", replacement=" and ", kind="AND")),
        (r"\|\|?", Habit("`or` is written in letters", replacement=" or ", kind="OR")),
        (r"!(?!=)", Habit("`not` is written in letters", replacement="not ", kind="NOT")),
        (r";", Habit("declarations and steps end by themselves, without `;`", replacement="")),
        (r"%", _REMAINDER),
        (r"[\u2018\u2019\u201c\u201d\u201e']", _SINGLE_QUOTE),
        (r"[\u2010-\u2015\u2212]", Habit("this dash is no minus sign", "", "-", "MINUS")),
        (r"\u00d7", _written("\u00d7", "*", "STAR")),
        (r"\u00f7", _written("\u00f7", "/", "SLASH")),
        (r"\u2264", _written("\u2264", "<=", "COMPARISON")),
        (r"\u2265", _written("\u2265", ">=", "COMPARISON")),
        (r"\u2260", _written("\u2260", "!=", "COMPARISON")),
        (r"\u2026", _written("\u2026", "..", "")),
        (r"[\u00a0\u2000-\u200b\u202f\u205f\u3000\ufeff]+", _SPACE),
        (r"\?", Habit("`?` has no meaning here", "one of two values is `x if c else y`")),
        (
            r"(?<=[A-Za-z0-9_\])])\.(?=[A-Za-z0-9_])",
            Habit(
                "an observation is called, not reached with `.`",
                "write `load(d)`, `tokens(prompt)`",
            ),
        ),
        (
            r"\.",
            Habit(
                "`.` has no meaning here", "a range of values has two: `0..10`; a prompt's has `:`"
            ),
        ),
        (r"`", Habit("names and texts stand without backquotes", replacement="")),
        (r"\\", Habit("lines go on by themselves, without `\\`", replacement="")),
        (r"@", Habit("`@` has no meaning here", "a step says where with `on`, `from` or `to`")),
        (r"\$", Habit("names have no `$` in front", replacement="")),
        (r"\^", Habit("there is no operator `^`", "multiply: `x * x`")),
    )
)
FRACTION = re.compile(r"(?<![A-Za-z0-9_)\]])\.[0-9]+(?:%|[A-Za-z]+)?(?![A-Za-z0-9_.])")


# --- several tokens that read as one: what the parser stops at, with what touches it ----------

_ARROW = Habit(
    "an arrow has no meaning here", "a step says where with `on`, `from` or `to`: `generate on d`"
)
_CHANGE = Habit("nothing changes its value: a name has one", "write `let NAME = VALUE` once")

SEQUENCES: Mapping[str, Habit] = {
    "**": Habit("there is no power operator", "multiply: `x * x`"),
    "//": Habit("there is no integer division", "write `floor(a / b)`; a comment begins with `#`"),
    "->": _ARROW,
    "=>": Habit(
        "an arrow has no meaning here",
        "the steps of a route stand in braces, `{ ... }`; at least is `>=`",
    ),
    "<-": _ARROW,
    ":=": Habit("`:=` is written `=`", replacement="="),
    "===": Habit("`===` is written `==`", replacement="=="),
    "!==": Habit("`!==` is written `!=`", replacement="!="),
    "=<": Habit("`=<` is written `<=`", replacement="<="),
    "<>": Habit("`<>` is written `!=`", replacement="!="),
    "::": Habit("a part of the prompt has two bounds", "write `prompt[a:b]`"),
    **dict.fromkeys(("+=", "-=", "*=", "/=", "++"), _CHANGE),
}


# --- words that the parser stops at, or behind -------------------------------------------------

_EQUAL = Habit("equality is written `==`", replacement="==")
WORDS: Mapping[str, Habit] = {
    **dict.fromkeys(("is", "equals", "eq"), _EQUAL),
    "then": Habit("a conditional has no `then`", "write `x if c else y`"),
    "xor": Habit("there is no `xor`", "truth values are compared with `!=`"),
    "mod": Habit("there is no remainder operator"),
}
_RETURN = Habit("a definition is one expression, without `return`", "write `def f(x) = x + 1`")
BEFORE: Mapping[str, Habit] = {
    "return": _RETURN,
    "lambda": Habit("a function is declared with `def`", "write `def f(x) = x + 1`"),
    "await": Habit("nothing is waited for here", "leave `await` out"),
}


# --- what stands where a declaration should ---------------------------------------------------

_HASH = Habit("a comment begins with `#`", replacement="#")
COMMENTS: Mapping[str, Habit] = {
    **dict.fromkeys(("//", "///", "--"), _HASH),
    **dict.fromkeys(
        ("/*", "/**"), Habit("a comment begins with `#`", "write `#` in front of each line")
    ),
}
_BINDING = Habit("a binding is declared with `let`", replacement="let")
_DEFINITION = Habit("a function is declared with `def`", replacement="def")
_CONDITION = Habit("a condition stands in a route", "write `route NAME when COND { ... }`")
_LOOP = Habit(
    "there are no loops", "a choice looks at all workers: `argmin(load(w) for w in POOL)`"
)
_STEP = Habit("a step stands in a route", "write `route NAME { ... }` around the steps")
_TEST_LINE = Habit("this stands in a test", 'write `test "what is shown" { ... }` around it')

STRAY: Mapping[str, Habit] = {
    **dict.fromkeys(("if", "else", "when", "elif", "unless", "switch", "case"), _CONDITION),
    **dict.fromkeys(("for", "while", "foreach", "loop"), _LOOP),
    **dict.fromkeys(("var", "const", "val", "auto", "local"), _BINDING),
    **dict.fromkeys(("fn", "func", "function", "fun"), _DEFINITION),
    **dict.fromkeys(("compute", "reuse", "generate", "replicate"), _STEP),
    **dict.fromkeys(("given", "expect", "cluster"), _TEST_LINE),
    "import": Habit("a strategy is one file and imports nothing"),
    "from": Habit("a strategy is one file and imports nothing"),
    "in": Habit(
        "`in` asks nothing here",
        "it belongs to `for w in POOL` and to a param's range; workers are compared with `==`",
    ),
}


# --- names ------------------------------------------------------------------------------------

_NOTHING = Habit(
    "there is no value for nothing",
    'a text that is absent is `""`; a route that meets something missing is passed over by itself',
)
NAMES: Mapping[str, Habit] = {
    **{
        word: Habit(f"`{word}` is written `{word.lower()}`", replacement=word.lower())
        for word in ("True", "False", "TRUE", "FALSE")
    },
    **dict.fromkeys(("None", "null", "nil", "undefined", "NULL"), _NOTHING),
    **dict.fromkeys(
        ("len", "length", "size", "num_tokens", "prompt_len", "prompt_length", "prompt_tokens"),
        Habit("the length of the prompt is `tokens(prompt)`"),
    ),
    **dict.fromkeys(
        ("pick", "choose", "select", "least_loaded"),
        Habit("a worker is chosen with `argmin`", "write `argmin(load(w) for w in POOL)`"),
    ),
    **dict.fromkeys(
        ("round_robin", "roundrobin", "rr"),
        Habit("workers take turns with `next(POOL)`", "write `generate on next(POOL)`"),
    ),
    **dict.fromkeys(
        ("int", "round", "ceil"), Habit("numbers are rounded down with `floor`", "write `floor(x)`")
    ),
    **dict.fromkeys(
        ("avg", "average"), Habit("the average is `mean`", "write `mean(load(w) for w in POOL)`")
    ),
    **dict.fromkeys(
        ("hash", "consistent_hash", "affinity"),
        Habit("the same worker for the same key is `sticky(KEY, POOL)`"),
    ),
    "worker": Habit("a strategy names a choice: `argmin(load(w) for w in POOL)`"),
}
