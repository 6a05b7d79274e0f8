"""What an engine refuses because it has enough to do."""

from array import array

import pytest

from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.engine import Engine
from mserve.runtime.errors import NoRoom
from mserve.runtime.messages import PlanCall, Sampling, StartGenerateCall


def call(plan_id: str) -> PlanCall:
    step = StartGenerateCall("g", 0, Sampling(4))
    return PlanCall(plan_id=plan_id, tokens=array("i", [1, 2, 3]).tobytes(), steps=(step,))


def test_plans_beyond_its_number_are_refused_and_change_nothing() -> None:
    engine = Engine(EngineConfig(num_pages=8, max_sequences=2))
    for plan_id in ("a", "b"):
        engine.submit(call(plan_id), 0.0)
    with pytest.raises(NoRoom, match="2 plans under way") as refused:
        engine.submit(call("c"), 0.0)
    assert refused.value.retry_after_s is not None
    engine.cancel(call("a").key, 0.0)
    engine.submit(call("c"), 0.0)
    engine.check_integrity()
