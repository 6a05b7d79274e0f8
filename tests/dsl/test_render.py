"""Formats of diagnostics. The long one's looks are specified by the ```full blocks of tests/spec."""

import json

import pytest

from mserve.dsl.check import check_text
from mserve.dsl.diagnostics import Diagnostic, Label, Severity
from mserve.dsl.render import FORMATS, render, render_all
from mserve.dsl.source import Source
from mserve.dsl.syntax import Span

_SOURCE = Source.from_text("one\n\ttwo 日本 three\nfour\nfive", "a,b.mserve")


def _at(*words: str, text: str = "", help_text: str = "") -> Diagnostic:
    labels = []
    for word in words:
        start = _SOURCE.text.index(word)
        labels.append(Label(Span(start, start + len(word)), text and f"{text} {word}"))
    return Diagnostic("no-fallback-route", "100% wrong", tuple(labels), help_text, Severity.WARNING)


def test_concise() -> None:
    assert render(_SOURCE, [_at("three"), _at("one")], "concise") == (
        "a,b.mserve:2:9: warning[no-fallback-route] 100% wrong\n"
        "a,b.mserve:1:1: warning[no-fallback-route] 100% wrong\n"
    )


def test_github() -> None:
    assert render(_SOURCE, [_at("two", help_text="do")], "github") == (
        "::warning file=a%2Cb.mserve,line=2,col=2,endLine=2,endColumn=5,"
        "title=mserve (no-fallback-route)::100%25 wrong. do\n"
    )


def test_json() -> None:
    (found,) = json.loads(render(_SOURCE, [_at("two", "one", text="is")], "json"))
    assert found["rule"] == "no-fallback-route"
    assert found["severity"] == "warning"
    assert (found["line"], found["column"], found["end_column"]) == (2, 2, 5)
    assert [label["text"] for label in found["labels"]] == ["is two", "is one"]


def test_sarif() -> None:
    checked = check_text('strategy a "b"\npool workers')
    (run,) = json.loads(render(checked.source, checked.diagnostics, "sarif"))["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert [result["ruleId"] for result in run["results"]] == ["no-fallback-route", "unused-pool"]
    assert rules == ["no-fallback-route", "unused-pool"]
    region = run["results"][1]["locations"][0]["physicalLocation"]["region"]
    assert region == {"startLine": 2, "startColumn": 6, "endLine": 2, "endColumn": 13}


def test_several_files_are_one_document() -> None:
    files = [(_SOURCE, [_at("two")]), (_SOURCE, [_at("one"), _at("four")])]
    assert len(json.loads(render_all(files, "json"))) == 3
    assert len(json.loads(render_all(files, "sarif"))["runs"][0]["results"]) == 3


def test_full_aligns_under_tabs_and_wide_characters() -> None:
    assert render(_SOURCE, [_at("three", "日本", text="is", help_text="see")]) == (
        "warning[no-fallback-route]: 100% wrong\n"
        "  --> a,b.mserve:2:9\n"
        "   |\n"
        " 2 |     two 日本 three\n"
        "   |         ---- ^^^^^ is three\n"
        "   |         |\n"
        "   |         is 日本\n"
        "help: see\n\n"
    )


def test_full_shows_all_lines_that_matter() -> None:
    assert render(_SOURCE, [_at("five", "four", "one", text="is")]) == (
        "warning[no-fallback-route]: 100% wrong\n"
        "  --> a,b.mserve:4:1\n"
        "   |\n"
        " 1 | one\n"
        "   | --- is one\n"
        "...\n"
        " 3 | four\n"
        "   | ---- is four\n"
        " 4 | five\n"
        "   | ^^^^ is five\n\n"
    )


def test_full_stacks_three_texts_under_one_line() -> None:
    text = render(_SOURCE, [_at("two", "日本", "three", text="is")])
    assert text.splitlines()[4:] == [
        "   |     ^^^ ---- ----- is three",
        "   |     |   |",
        "   |     |   is 日本",
        "   |     |",
        "   |     is two",
        "",
    ]


@pytest.mark.parametrize("style", FORMATS)
def test_nothing_that_moves_the_cursor_or_cannot_be_encoded_is_printed(style: str) -> None:
    checked = check_text('strategy a "\x1b[31m \udc80 \x07"\nlet \x00 = \udcff', "\x1b.mserve")
    text = render(checked.source, checked.diagnostics, style)
    assert text.encode("utf-8")
    assert set(text) & {"\x1b", "\x07", "\x00"} == set()


@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize("text", ["", "\n", "strategy", 'strategy a "b"', "let x = (\n\n"])
def test_every_problem_of_a_short_text_can_be_shown(style: str, text: str) -> None:
    checked = check_text(text)
    assert checked.diagnostics
    assert render(checked.source, checked.diagnostics, style)
