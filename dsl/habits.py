"""What authors bring along from other languages, and how it is written here.

Tables only: of characters that begin no token, of operators that read as several tokens, of words
that stand where others should. Names are in synonyms.py; who meets what, and where, is others' business.
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
NOT_UTF8 = Habit("this is not UTF-8 text", "save the file as UTF-8")
_REMAINDER = Habit(
    "there is no remainder operator: `%` belongs to a ratio, as in `10%`",
    "requests are spread with `next(POOL)`, `random(POOL)` or `sticky(KEY, POOL)`",
    kind="STAR",
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
                "nothing is reached with `.`: an observation is called",
                "write `load(d)`, `tokens(prompt)`",
            ),
        ),
        (r"\ufffd", NOT_UTF8),
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
FRACTION = re.compile(r"(?<![A-Za-z0-9_)\].])\.[0-9]+(?:%|[A-Za-z]+)?(?![A-Za-z0-9_.])")


# --- several tokens that read as one: what the parser stops at, with what touches it ----------

_ARROW = Habit(
    "an arrow has no meaning here", "a step says where with `on`, `from` or `to`: `generate on d`"
)
_CHANGE = Habit("a name has one value, which never changes", "write `let x = ...` once")

SEQUENCES: Mapping[str, Habit] = {
    "**": Habit("there is no power operator", "multiply: `x * x`"),
    "//": Habit("there is no integer division", "write `floor(a / b)`; a comment begins with `#`"),
    "->": _ARROW,
    "=>": Habit(
        "an arrow has no meaning here",
        "a route's steps stand in braces, a definition's value behind `=`; to compare write `>=`",
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
_NOT_EQUAL = Habit("inequality is written `!=`", replacement="!=")
_WHOLE_TEXTS = Habit("texts are compared whole", 'write `session == "abc"` or `!=`')
_ORDER = Habit(
    "nothing is sorted: a choice looks at all workers", "write `argmin(load(w) for w in POOL)`"
)
WORDS: Mapping[str, Habit] = {
    **dict.fromkeys(("is", "equals", "eq"), _EQUAL),
    **dict.fromkeys(("AND", "And"), Habit("`and` is written in small letters", replacement="and")),
    **dict.fromkeys(("OR", "Or"), Habit("`or` is written in small letters", replacement="or")),
    **dict.fromkeys(("like", "LIKE", "contains", "startswith", "matches"), _WHOLE_TEXTS),
    **dict.fromkeys(("percent", "pct"), Habit("a ratio is written with `%`", "write `50%`")),
    "then": Habit("a conditional has no `then`", "write `x if c else y`"),
    "xor": Habit("there is no `xor`", "truth values are compared with `!=`"),
    "mod": Habit("there is no remainder operator"),
    "between": Habit("a range is two comparisons", "write `x >= low and x <= high`"),
    "of": Habit("a part of a number is written with `*`", "write `50% * tokens(prompt)`"),
}
# Two words, the second of which would be understood otherwise.
PAIRS: Mapping[str, Habit] = {
    **dict.fromkeys(("is not", "not equals"), _NOT_EQUAL),
    "not in": Habit("`in` asks nothing here", "write `x != a and x != b`"),
    "order by": _ORDER,
}
_RETURN = Habit("a definition is one expression, without `return`", "write `def f(x) = x + 1`")
BEFORE: Mapping[str, Habit] = {
    "return": _RETURN,
    "lambda": Habit("a function is declared with `def`", "write `def f(x) = x + 1`"),
    "await": Habit("nothing is waited for here", "leave `await` out"),
    **dict.fromkeys(
        ("select", "SELECT"),
        Habit("a worker is chosen with `argmin`", "write `argmin(load(w) for w in POOL)`"),
    ),
    **{
        word: Habit(f"`{word.lower()}` is written in small letters", replacement=word.lower())
        for word in ("NOT", "ON", "On", "FROM", "From", "TO", "To", "IN", "FOR")
    },
}

_COMPUTE = Habit("prefill is a step `compute`", "write `compute prompt on WORKER`")
_GENERATE = Habit("decoding is a step `generate`", "write `generate on WORKER`")
_SEND = Habit(
    "KV moves by itself to where it is needed",
    "leave this out: what `compute` and `reuse` place is moved to the worker that generates",
)
_ELSE = Habit(
    "the last route, without a condition, is the `else`", "write `route other { ... }` at the end"
)
_EXPECTED = Habit("what a test expects begins with `expect`", "write `expect route NAME`")
_SITUATION = Habit(
    "a test's situation is `cluster` and `given`",
    "write `given tokens(prompt) = 4000, load(decode[0]) = 5s`",
)
PREPOSITIONS = frozenset(["at", "by", "in", "onto", "using", "via", "with"])

# What stands where a line of a block should, by a keyword that is accepted there.
LINES: Mapping[str, Mapping[str, Habit]] = {
    "COMPUTE": {
        "else": _ELSE,
        **dict.fromkeys(("prefill", "computes"), _COMPUTE),
        **dict.fromkeys(("decode", "run", "serve", "forward", "use", "pass"), _GENERATE),
        "return": Habit(
            "nothing is returned: a route says where it generates", "write `generate on WORKER`"
        ),
        **dict.fromkeys(("proxy_pass", "backend", "server", "worker"), _GENERATE),
        **dict.fromkeys(("send", "transfer", "move", "migrate", "receive", "copy"), _SEND),
        **dict.fromkeys(
            ("retry", "retries", "timeout"),
            Habit("a limit holds for all routes", "write `limits { timeout = 30s  retries = 2 }`"),
        ),
    },
    "EXPECT": {
        **dict.fromkeys(("assert", "check", "should", "then", "ensure", "require"), _EXPECTED),
        **dict.fromkeys(("when", "if", "with", "where", "let", "set", "setup"), _SITUATION),
    },
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
_POOL = Habit(
    "workers are declared as a pool, without addresses", "write `pool decode { workers = 4 }`"
)
_PARAM = Habit("a value that may be changed is a param", "write `param tail = 10% in 0%..90%`")
_YAML = Habit(
    "a strategy is no YAML or JSON", "write declarations: `pool decode  route all { ... }`"
)
_TEST_LINE = Habit("this stands in a test", 'write `test "what is shown" { ... }` around it')

STRAY: Mapping[str, Habit] = {
    **dict.fromkeys(("if", "when", "elif", "unless", "switch", "case", "match"), _CONDITION),
    **dict.fromkeys(("allow", "deny", "rule", "rules", "location"), _CONDITION),
    **dict.fromkeys(("else", "default", "otherwise", "fallback"), _ELSE),
    **dict.fromkeys(("upstream", "clusters", "backend", "backends", "server", "servers"), _POOL),
    **dict.fromkeys(("variable", "parameter", "setting", "locals"), _PARAM),
    **dict.fromkeys(("apiVersion", "kind", "metadata", "spec", "{", "[", "-"), _YAML),
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
