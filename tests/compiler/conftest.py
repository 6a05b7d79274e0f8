"""Strategies from text, with the checks of meaning or without: tests choose what they compile."""

from collections.abc import Callable

import pytest

from mserve.compiler.pipeline import CompiledStrategy, compile_strategy
from mserve.dsl.check import Checked, check_text
from mserve.dsl.diagnostics import Severity
from mserve.dsl.parser import parse
from mserve.dsl.source import Source

Compile = Callable[[str], CompiledStrategy]


@pytest.fixture
def compile_text() -> Compile:
    """Without the checks of meaning."""

    def compile_(text: str) -> CompiledStrategy:
        source = Source.from_text(text)
        parsed = parse(source)
        assert not parsed.diagnostics, parsed.diagnostics
        return compile_strategy(Checked(source, parsed.strategy, ()))

    return compile_


@pytest.fixture
def compile_clean() -> Compile:
    """Of a text in which the checks find no error."""

    def compile_(text: str) -> CompiledStrategy:
        checked = check_text(text)
        errors = [each for each in checked.diagnostics if each.severity is Severity.ERROR]
        assert [f"{each.rule}: {each.message}" for each in errors] == []
        return compile_strategy(checked)

    return compile_
