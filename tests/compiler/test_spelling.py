"""Values in the language's words: with units, without exponents, and read back the same."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mserve.compiler.settings import number_of
from mserve.compiler.spelling import spell
from mserve.dsl.parser import parse
from mserve.dsl.source import Source
from mserve.dsl.types import BYTES, COUNT, DURATION, RATIO, TEXT, UNKNOWN, UNTYPED, WORKER, Type


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, WORKER, "missing"),
        (True, UNKNOWN, "true"),
        ("decode-0", WORKER, "decode[0]"),
        ("a-1", TEXT, '"a-1"'),
        (("a-0", "a-1"), UNKNOWN, "[a[0], a[1]]"),
        (4000.0, COUNT, "4000"),
        (10_000_000, COUNT, "10000000"),
        (1.5, UNTYPED, "1.5"),
        (0.1, RATIO, "10%"),
        (2.5, RATIO, "2.5"),
        (0, RATIO, "0%"),
        (0, DURATION, "0s"),
        (0.0811, DURATION, "81.1ms"),
        (5.0642, DURATION, "5.064s"),
        (300, DURATION, "5min"),
        (4e-5, DURATION, "40us"),
        (64 * 2**30, BYTES, "64GiB"),
        (math.inf, DURATION, "infinite"),
    ],
)
def test_values_are_spelled_as_they_could_be_written(value: object, unit: Type, text: str) -> None:
    assert spell(value, unit) == text


@given(
    value=st.floats(1e-6, 1e9) | st.integers(0, 10**9),
    unit=st.sampled_from([COUNT, RATIO, DURATION, BYTES, UNTYPED]),
)
def test_numbers_are_read_back(value: float, unit: Type) -> None:
    text = spell(float(value), unit, 12)
    parsed = parse(Source.from_text(f'strategy s "" pool a test "t" {{ given x = {text} }}'))
    assert not parsed.diagnostics, text
    (test,) = parsed.strategy.tests
    assert number_of(test.givens[0].value) == pytest.approx(value, rel=1e-9, abs=1e-15)
