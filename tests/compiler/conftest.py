"""Strategies from text without the checks of meaning: tests here choose what they compile."""

from collections.abc import Callable

import pytest

from mserve.compiler.pipeline import CompiledStrategy, compile_strategy
from mserve.dsl.check import Checked
from mserve.dsl.parser import parse
from mserve.dsl.source import Source

Compile = Callable[[str], CompiledStrategy]


@pytest.fixture
def compile_text() -> Compile:
    def compile_(text: str) -> CompiledStrategy:
        source = Source.from_text(text)
        parsed = parse(source)
        assert not parsed.diagnostics, parsed.diagnostics
        return compile_strategy(Checked(source, parsed.strategy, ()))

    return compile_
