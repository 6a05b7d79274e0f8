"""What editors are told of the language is so: the TextMate grammar, the snippets, the extension.

A small TextMate tokenizer stands in for the editors' own. Of grammars it knows what ours uses:
`match`, `begin` with `end`, `captures` with names, `include` of the repository.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mserve.dsl import builtins, settings
from mserve.dsl.check import check_text
from mserve.dsl.comments import comments_of
from mserve.dsl.lalr import span_of, spelling
from mserve.dsl.literals import SUFFIXES
from mserve.dsl.source import Source
from mserve.dsl.tables import grammar_text, load_parser
from mserve.dsl.tokens import tokenize

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "editors" / "vscode"


def grammar_rule(name: str) -> str:
    """Its right-hand side."""
    found = re.search(rf"^\??{name}: *(.*)$", grammar_text(), re.MULTILINE)
    assert found is not None, f"the grammar has no rule {name} on one line"
    return found[1]


def loaded(name: str) -> Any:
    return json.loads((FOLDER / name).read_text("utf-8"))


GRAMMAR = loaded("syntaxes/mserve.tmLanguage.json")
PACKAGE = loaded("package.json")
SNIPPETS = loaded("snippets/mserve.json")
SCRIPT = (FOLDER / "extension.js").read_text("utf-8")

DECLARATIONS = {"strategy", *re.findall(r"\w+", grammar_rule("declaration"))}
KEYWORDS = {
    word for each in load_parser().terminals if (word := spelling(each.name)) and word.isalpha()
}
CHOICES = [each for each in settings.POOL.values() if isinstance(each, settings.Choice)]
CHOICE_WORDS = {name: word for choice in CHOICES for name, word in choice.words.items()}
POOL_SETTINGS = {
    *settings.POOL,
    *(name for each in CHOICE_WORDS.values() for name in each.settings),
}

_BLOCK = re.compile(r"^```mserve\b[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHIPPED = {path.stem: path.read_text("utf-8") for path in sorted(ROOT.glob("strategies/*.mserve"))}
SHOWN = {
    f"{page.stem}:{number}": text
    for page in sorted(ROOT.glob("docs/*.md"))
    for number, text in enumerate(_BLOCK.findall(page.read_text("utf-8")))
}


# --- a small TextMate tokenizer ------------------------------------------------------------------

Rule = dict[str, Any]


def scopes_of(text: str) -> list[str]:
    """The innermost scope of each character, empty where there is none."""
    scopes = [""] * len(text)
    stack: list[Rule] = [{"patterns": GRAMMAR["patterns"]}]
    offset = 0
    for line in text.splitlines(keepends=True):
        for start, end, scope in _scopes_of_line(line, stack):
            scopes[offset + start : offset + end] = [scope] * (end - start)
        offset += len(line)
    return scopes


def _scopes_of_line(line: str, stack: list[Rule]) -> Iterator[tuple[int, int, str]]:
    """(start, end, scope), inner ones after outer ones; leaves on the stack what is still open."""
    position = 0
    while (found := _first(line, position, stack[-1])) is not None:
        match, rule, captures = found
        if match.start() > position:
            yield position, match.start(), stack[-1].get("name", "")
        yield *match.span(), rule.get("name", "")
        for group, capture in rule.get(captures, {}).items():
            yield *match.span(int(group)), capture["name"]
        if captures == "beginCaptures":
            stack.append(rule)
        elif captures == "endCaptures":
            stack.pop()
        assert match.end() > position or captures == "endCaptures", f"no step at {line!r}"
        position = match.end()
    yield position, len(line), stack[-1].get("name", "")


def _first(line: str, position: int, inside: Rule) -> tuple[re.Match[str], Rule, str] | None:
    """The leftmost match, of the first rule that has it; the end of what is open comes first."""
    found: list[tuple[re.Match[str], Rule, str]] = []
    for rule, key, captures in _candidates(inside):
        if match := compiled(rule[key]).search(line, position):
            found.append((match, rule, captures))
    return min(found, key=lambda each: each[0].start(), default=None)


def _candidates(inside: Rule) -> Iterator[tuple[Rule, str, str]]:
    if "end" in inside:
        yield inside, "end", "endCaptures"
    for rule in flat(inside["patterns"]):
        if "match" in rule:
            yield rule, "match", "captures"
        else:
            yield rule, "begin", "beginCaptures"


def flat(patterns: list[Rule]) -> Iterator[Rule]:
    for rule in patterns:
        if "include" in rule:
            yield from flat([GRAMMAR["repository"][rule["include"].removeprefix("#")]])
        elif "match" in rule or "begin" in rule:
            yield rule
        else:
            yield from flat(rule["patterns"])


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def scope_in(text: str, word: str) -> str:
    """The one scope that all characters of the last `word` have."""
    start = text.rindex(word)
    (scope,) = set(scopes_of(text)[start : start + len(word)])
    return scope


# --- the grammar ---------------------------------------------------------------------------------

_OF_KEYWORDS = ("keyword.", "storage.", "variable.language.", "constant.language.")
_OF_NAMES = ("variable.", "entity.", "support.")
_OF_KINDS = {
    "NUMBER": ("constant.numeric.",),
    "RATIO": ("constant.numeric.", "keyword.other.unit."),
    "DURATION": ("constant.numeric.", "keyword.other.unit."),
    "BYTES": ("constant.numeric.", "keyword.other.unit."),
    "TEXT": ("string.quoted.", "constant.character.escape."),
    "COMPARISON": ("keyword.operator.comparison.",),
    "NAME": _OF_NAMES,
}


@pytest.mark.parametrize("text", [*SHIPPED.values(), *SHOWN.values()], ids=[*SHIPPED, *SHOWN])
def test_every_token_has_a_scope_of_its_kind(text: str) -> None:
    scopes = scopes_of(text)
    source = Source(text, "")
    tokens = tokenize(source).tokens
    for token in tokens:
        span = span_of(token)
        sign = ("punctuation.", "keyword.operator.")
        wanted = _OF_KINDS.get(token.type, _OF_KEYWORDS if token.isalpha() else sign)
        for scope in scopes[span.start : span.end]:
            assert scope.startswith(wanted), f"{token!r} is {scope}"
    for comment in comments_of(source, tokens):
        assert set(scopes[comment.span.start : comment.span.end]) == {
            "comment.line.number-sign.mserve"
        }


def words_of(*scopes: str) -> set[str]:
    """The words that rules for these scopes, or for parts of them, spell out."""
    found: set[str] = set()
    for rule in every_rule([{"patterns": list(GRAMMAR["repository"].values())}]):
        captures = {**rule.get("captures", {}), **rule.get("beginCaptures", {})}
        names = [rule.get("name", ""), *(each["name"] for each in captures.values())]
        if any(name.startswith(scopes) for name in names):
            found |= spelled(rule["match"] if "match" in rule else rule["begin"])
    return found


def every_rule(patterns: list[Rule]) -> Iterator[Rule]:
    """With those inside of what begins and ends."""
    for rule in flat(patterns):
        yield rule
        yield from every_rule([each for each in rule.get("patterns", []) if "include" not in each])


def spelled(pattern: str) -> set[str]:
    return set(re.findall(r"[a-z_]{2,}", re.sub(r"\[[^]]*\]", "", pattern)))


@pytest.mark.parametrize("keyword", sorted(KEYWORDS))
def test_a_keyword_of_the_language_is_one(keyword: str) -> None:
    assert scope_in(f"let x = {keyword} y", keyword).startswith(_OF_KEYWORDS)


def test_it_has_no_other_keywords() -> None:
    units = spelled(GRAMMAR["repository"]["number"]["match"])
    assert words_of(*_OF_KEYWORDS) - units == KEYWORDS
    for rule in every_rule([{"patterns": list(GRAMMAR["repository"].values())}]):
        assert spelled(rule.get("end", "")) in (set(), DECLARATIONS)


def test_it_has_the_builtins_of_the_language_and_no_others() -> None:
    assert words_of("support.variable") == set(builtins.BARE)
    kinds = ("observation", "choice", "arithmetic")
    called = [words_of(f"support.function.{kind}") for kind in kinds]
    assert set.union(*called) == set(builtins.CALLS) | set(builtins.FOLDS)


def test_it_has_the_settings_of_the_language_and_no_others() -> None:
    assert words_of("support.type.property-name.pool") == POOL_SETTINGS
    assert words_of("support.constant") == set(CHOICE_WORDS)
    goals = words_of("support.type.property-name.goal")
    assert goals == set(settings.SLO) | set(settings.LIMITS)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_it_has_the_units_of_the_language(suffix: str) -> None:
    for number in (f"4{suffix}", f"1.5{suffix}"):
        assert scope_in(f"let x = {number}", suffix) == "keyword.other.unit.mserve"


def test_it_has_no_other_units() -> None:
    units = GRAMMAR["repository"]["number"]["match"].partition(")?(")[2].partition(")")[0]
    assert set(units.split("|")) == set(SUFFIXES)
    for wrong in ("4kb", "4msec", "4%%", "1e6"):
        assert scope_in(f"let x = {wrong}", "4" if "4" in wrong else "1") == ""


def test_settings_are_such_in_their_blocks_only() -> None:
    text = 'pool a { workers = 2 }\ntest "t" { cluster workers = 3 }\nslo\n{ tpot = 1s }'
    assert scope_in(text[:22], "workers") == "support.type.property-name.pool.mserve"
    assert scope_in(text, "workers") == "variable.other.readwrite.mserve"
    assert scope_in(text, "tpot") == "support.type.property-name.goal.mserve"


def test_a_worker_by_position_is_not_a_range() -> None:
    text = "expect sends [0:10] from prefill[2] to d"
    assert scope_in(text, "prefill") == "variable.other.worker.mserve"
    assert scope_in(text, "2") == "constant.numeric.index.mserve"
    assert scope_in("compute prompt[:90%] on d", "prompt") == "variable.language.mserve"


def test_a_text_that_is_not_closed_ends_with_its_line() -> None:
    assert scope_in('let a = "open\nlet b = 1', "let") == "storage.type.mserve"


# --- the snippets --------------------------------------------------------------------------------

_AROUND = (
    "{}",
    'strategy s "t"\n{}',
    'strategy s "t"\nroute r {{ {} }}',
    'strategy s "t"\ntest "u" {{ {} }}',
)


def plain(snippet: Rule) -> str:
    """As it stands there before anything is typed over: `${1:word}` is `word`, `$0` nothing."""
    return re.sub(
        r"\$\{\d+:([^}]*)\}|\$0", lambda found: found[1] or "", "\n".join(snippet["body"])
    )


@pytest.mark.parametrize("name", SNIPPETS)
def test_a_snippet_is_well_formed_as_it_stands(name: str) -> None:
    text = plain(SNIPPETS[name])
    assert "$" not in text
    rules = [
        {each.rule for each in check_text(around.format(text)).diagnostics} for around in _AROUND
    ]
    assert any("syntax" not in found for found in rules)


def test_the_snippet_of_a_strategy_has_no_mistake() -> None:
    assert check_text(plain(SNIPPETS["Strategy"])).diagnostics == ()


def test_a_snippet_begins_with_what_is_typed() -> None:
    prefixes = [each["prefix"] for each in SNIPPETS.values()]
    assert len(set(prefixes)) == len(prefixes)
    assert {each for each in prefixes if each in KEYWORDS} >= {"strategy", "pool", "route", "test"}


# --- the extension -------------------------------------------------------------------------------


def test_all_that_the_package_names_is_there() -> None:
    contributes = PACKAGE["contributes"]
    named = [each["path"] for each in contributes["grammars"] + contributes["snippets"]]
    named += [PACKAGE["main"], contributes["languages"][0]["configuration"]]
    assert [name for name in named if not (FOLDER / name).is_file()] == []
    for grammar in contributes["grammars"]:
        assert loaded(grammar["path"])["scopeName"] == grammar["scopeName"]


def test_what_the_package_offers_the_script_does() -> None:
    offered = {each["command"] for each in PACKAGE["contributes"]["commands"]}
    registered = set(re.findall(r'registerCommand\("(mserve\.\w+)"', SCRIPT))
    assert offered == registered
    for places in PACKAGE["contributes"]["menus"].values():
        assert {each["command"] for each in places} <= offered


def test_lens_commands_of_the_server_are_not_commands_of_the_package() -> None:
    """The client's library registers those that the server claims; twice would be an error."""
    lenses = set(re.findall(r'= "(mserve\.\w+)"; // \[uri', SCRIPT))
    assert lenses == {"mserve.plan", "mserve.test"}
    assert not lenses & {each["command"] for each in PACKAGE["contributes"]["commands"]}


def test_the_script_reads_settings_that_there_are() -> None:
    properties = PACKAGE["contributes"]["configuration"]["properties"]
    assert set(re.findall(r'affectsConfiguration\("(mserve\.\w+)"', SCRIPT)) <= set(properties)
    assert {f"mserve.{name}" for name in re.findall(r'\.get\("(\w+)"', SCRIPT)} <= set(properties)


def test_the_language_configuration_reads_words_as_the_language_does() -> None:
    pattern = re.compile(loaded("language-configuration.json")["wordPattern"])
    assert pattern.findall("let a_1 = 50ms * load(w2)") == ["let", "a_1", "50ms", "load", "w2"]


def test_nothing_is_installed_in_the_tree() -> None:
    assert PACKAGE["dependencies"].keys() == {"vscode-languageclient"}
    assert "node_modules/" in (ROOT / ".gitignore").read_text("utf-8").split()
