"""What a router takes for its next strategy: checked, servable, and no execution of it breaks a rule."""

from typing import Any

import pytest

from mserve.compiler import verifier
from mserve.compiler.verifier import Counterexample
from mserve.compiler.verifier.properties import Property
from mserve.runtime.cli.live import LiveLanguage
from mserve.runtime.cli.strategies import strategy_path
from mserve.runtime.errors import Unprocessable


def test_a_shipped_strategy_is_taken() -> None:
    text = strategy_path("balanced").read_bytes()
    assert LiveLanguage().compile(text).name == "balanced"


def test_mistakes_come_back_as_diagnostics() -> None:
    with pytest.raises(Unprocessable, match="unknown-name"):
        LiveLanguage().compile(b'strategy s "x"\npool a\nroute r { generate on b }')


def test_what_cannot_be_executed_is_named() -> None:
    with pytest.raises(Unprocessable, match="prefetch = local"):
        LiveLanguage().compile(
            b'strategy s "x"\npool a { prefetch = local }\nroute r { generate on next(a) }'
        )


def test_a_broken_rule_comes_back_as_a_story(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_a_rule(strategy: Any, faults: int, budget: int) -> Counterexample:
        return Counterexample(strategy.name, "split", Property.STREAM, ("P crashes.", "D repeats."))

    monkeypatch.setattr(verifier, "prove", break_a_rule)
    with pytest.raises(Unprocessable, match=r"Route split .* 1\. P crashes\. 2\. D repeats\."):
        LiveLanguage().compile(strategy_path("balanced").read_bytes())
