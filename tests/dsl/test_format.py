"""The canonical form: it is one, it keeps the meaning and the comments, it looks as documented."""

import random
import re
from importlib.resources import files
from pathlib import Path

import pytest

from mserve.dsl.check import check_text
from mserve.dsl.comments import comments_of
from mserve.dsl.format import format_source
from mserve.dsl.parser import parse
from mserve.dsl.source import Source
from mserve.dsl.tokens import tokenize

_SHIPPED = {
    path.name: path.read_text("utf-8")
    for path in files("mserve.strategies").iterdir()
    if path.name.endswith(".mserve")
}
_BLOCK = re.compile(r"^```mserve\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ROOT = Path(__file__).parents[2]
_SAMPLES = [
    match.group(1)
    for folder in ("tests/spec", "docs", ".")
    for path in sorted((_ROOT / folder).glob("*.md"))
    for match in _BLOCK.finditer(path.read_text("utf-8"))
]
_WHOLE = [
    text if text.startswith("strategy") else f'strategy fragment "a part"\n{text}'
    for text in _SAMPLES
]
_READABLE = [text for text in _WHOLE if not parse(Source.from_text(text)).diagnostics]


def _formatted(text: str) -> str:
    found = format_source(Source.from_text(text))
    assert found.text is not None, found.diagnostics
    return found.text


def _assert_only_white_space_changed(text: str) -> str:
    before, after = Source.from_text(text), Source.from_text(_formatted(text))
    old, new = tokenize(before).tokens, tokenize(after).tokens
    assert [str(token) for token in old] == [str(token) for token in new]
    old_comments, new_comments = (
        [(each.text, each.trails) for each in comments_of(source, tokens)]
        for source, tokens in ((before, old), (after, new))
    )
    assert old_comments == new_comments
    assert parse(before).strategy == parse(after).strategy
    assert _formatted(after.text) == after.text
    return after.text


# --- what it looks like ----------------------------------------------------------------------

_UNTIDY = """\


strategy   untidy
  "what fmt does"
# of its own


#and another
param x=10% in 0% .. 90%   # one
param longer = 5 in 1..10# two

pool prefill{}
pool decode { batch=continuous ( tokens=8192,chunk = 512 ) queue =fcfs }
pool third { # opened
  workers = 4
  host_cache=64GiB # behind

  # before the end

}
let a=- 5   +tokens( prompt )*-2
let bcd = argmin(load(w)for w in[v for v in decode where not(queued(v)<3)])
# breaks the run
let e   = a
let f = a+   # because
   # of this
   e
def late ( w,x )=load(w)>x

route short when tokens(prompt)<256{generate on   bcd}
route long { generate on bcd
}
route split when (a) < 5 {

  compute prompt [ : 100% - x ] on bcd compute rest
  on bcd
  generate 5 on bcd generate on bcd }
adapt every 5s{x=20%}
test "t" { cluster decode=2 given a=5, load( decode [ 1 ] )=1s expect sends [:5] from a to e }
# end"""

_TIDY = """\
strategy untidy "what fmt does"
# of its own

#and another
param x      = 10% in 0%..90%   # one
param longer = 5 in 1..10       # two

pool prefill {}
pool decode { batch = continuous(tokens = 8192, chunk = 512)  queue = fcfs }
pool third {   # opened
  workers    = 4
  host_cache = 64GiB   # behind

  # before the end
}
let a   = -5 + tokens(prompt) * -2
let bcd = argmin(load(w) for w in [v for v in decode where not (queued(v) < 3)])
# breaks the run
let e = a
let f = a +   # because
    # of this
    e
def late(w, x) = load(w) > x

route short when tokens(prompt) < 256 { generate on bcd }
route long { generate on bcd }
route split when (a) < 5 {
  compute prompt[:100% - x] on bcd
  compute rest on bcd
  generate 5 on bcd
  generate on bcd
}
adapt every 5s { x = 20% }
test "t" {
  cluster decode = 2
  given a = 5, load(decode[1]) = 1s
  expect sends [:5] from a to e
}
# end
"""


def test_an_untidy_text() -> None:
    tidy = _TIDY.replace(
        'test "t" {\n  cluster decode = 2\n  given a = 5, load(decode[1]) = 1s\n'
        "  expect sends [:5] from a to e\n}",
        'test "t" { cluster decode = 2  given a = 5, load(decode[1]) = 1s  '
        "expect sends [:5] from a to e }",
    )
    assert _assert_only_white_space_changed(_UNTIDY) == tidy
    assert _assert_only_white_space_changed(_UNTIDY.replace('"t" {', '"t" {\n')) == _TIDY


_WIDE = 'strategy wide "lines"\n'


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "let calm = a < 5 and b < 6 or c < 76543 and argmin(load(w) for w in workers where queued(w) < 9) == d\n",
            [
                "let calm = a < 5 and b < 6",
                "    or c < 76543 and argmin(load(w) for w in workers where queued(w) < 9) == d",
            ],
        ),
        (
            "let best = argmin(recent(w) + evict_time(tokens(prompt) - hit, w) for w in workers where cached(w) == hit)\n",
            [
                "let best = argmin(recent(w) + evict_time(tokens(prompt) - hit, w) for w in workers",
                "    where cached(w) == hit)",
            ],
        ),
        (
            f"let l = {'x' * 120} + {'y' * 120}\nlet m = 5\n",
            [f"let l = {'x' * 120}", f"    + {'y' * 120}", "let m = 5"],
        ),
        (
            f"route a {{ generate on {'d' * 90} }}\n",
            ["route a {", f"  generate on {'d' * 90}", "}"],
        ),
        (
            f"let short = 5\nlet {'n' * 80} = 5 + 6 + 7\nlet other = 1{'0' * 20}\n",
            ["let short = 5", f"let {'n' * 80} = 5 + 6 + 7", f"let other = 1{'0' * 20}"],
        ),
    ],
)
def test_wide_lines(text: str, lines: list[str]) -> None:
    assert _assert_only_white_space_changed(_WIDE + text).splitlines()[1:] == lines


def test_line_ends_become_newlines() -> None:
    assert _formatted(_TIDY.replace("\n", "\r\n")) == _TIDY
    assert _formatted("\ufeff" + _TIDY) == _TIDY


@pytest.mark.parametrize("text", ["", "let x =", 'strategy a "b"\nlet x = 1 < 2 < 3', "\udc80"])
def test_what_cannot_be_read_is_left_alone(text: str) -> None:
    found = format_source(Source.from_text(text))
    assert found.text is None
    assert found.diagnostics


def test_bytes_that_are_not_utf8_are_left_alone() -> None:
    found = format_source(Source.from_bytes(b'strategy a "b"  # caf\xe9'))
    assert found.text is None
    assert [each.rule for each in found.diagnostics] == ["syntax"]


# --- that it changes nothing -----------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(_SHIPPED))
def test_shipped_strategies_are_in_canonical_form(name: str) -> None:
    formatted = _assert_only_white_space_changed(_SHIPPED[name])
    assert formatted == _SHIPPED[name], f"run: mserve fmt strategies/{name}"


def test_there_are_samples() -> None:
    assert len(_READABLE) > 40


@pytest.mark.parametrize("text", _READABLE, ids=range(len(_READABLE)))
def test_samples_keep_their_meaning(text: str) -> None:
    formatted = _assert_only_white_space_changed(text)
    rules = [[each.rule for each in check_text(each).diagnostics] for each in (text, formatted)]
    assert rules[0] == rules[1]


@pytest.mark.parametrize("seed", range(60))
def test_comments_and_empty_lines_anywhere(seed: int) -> None:
    """Between any two tokens of a shipped strategy."""
    generator = random.Random(seed)
    text = generator.choice(sorted(_SHIPPED.values()))
    words = [str(token) for token in tokenize(Source.from_text(text)).tokens]
    between = [" ", " ", "\n", "\n\n\n", " # behind\n", "\n  # alone\n", "\n#\n\n", "\t"]
    mixed = "".join(word + generator.choice(between) for word in words)
    _assert_only_white_space_changed(mixed)
