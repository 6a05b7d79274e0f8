"""Workers that were measured, in a simulation; and the file that says what they are."""

from pathlib import Path

import msgspec
import pytest

from mserve.compiler.pipeline import compile_strategy
from mserve.dsl.check import check_text
from mserve.runtime.cost import CostProfile
from mserve.runtime.errors import ConfigError
from mserve.runtime.simulator.pools import plan_measured
from mserve.runtime.simulator.profile import (
    Limits,
    LinkCosts,
    Profile,
    RequestCosts,
    StepCosts,
    read_profile,
    write_profile,
)
from mserve.runtime.simulator.simulation import Simulation
from mserve.runtime.traffic.outcomes import Outcome
from mserve.runtime.traffic.spec import traffic

STEPS = StepCosts(10e-3, 2e-4, 1e-8, 8e-3, 3e-4, 2e-7)
REQUEST = RequestCosts(4e-3, 5e-6)
PROFILE = Profile(
    model="m",
    strategy="turns",
    gpus=1,
    steps=STEPS,
    request=REQUEST,
    link=LinkCosts(1e-3, 1e9, 1000, 4),
    limits=Limits(4096, 16, 4096, 2048, 512, 64),
    reported=CostProfile(10e-3, 2e-4, 1e-8, 8e-3, 3e-4, 1e-3, 1e9, 1000),
    prompt_error=0.01,
    decode_error=0.01,
    prompts=(),
    mixed=(),
    decodes=(),
)
TEXT = """
strategy turns "one worker after the other"
pool workers
route turn { generate on next(workers) }
"""
STRATEGY = compile_strategy(check_text(TEXT, "turns.mserve"))
LATENCY_S = 2e-4  # between router and worker, one way


def outcomes(spec: str) -> list[Outcome]:
    specs = plan_measured(STRATEGY.pools, {}, PROFILE)
    simulation = Simulation(STRATEGY, specs, latency_s=LATENCY_S, request_s=PROFILE.request.time)
    return simulation.run(traffic(spec)).outcomes


def test_a_lone_request_takes_the_sum_of_its_parts() -> None:
    (outcome,) = outcomes("poisson:rate=1,input=1200,output=5,num=1")
    length, chunks = 1200, ((0, 512), (512, 1024), (1024, 1200))
    prefill_s = sum(
        STEPS.prefill_base_s
        + STEPS.prefill_token_s * (end - begin)
        + STEPS.prefill_pair_s * (end - begin) * (begin + end) / 2
        for begin, end in chunks
    )
    overhead_s = REQUEST.base_s + REQUEST.token_s * length + 2 * LATENCY_S
    assert outcome.ttft_s == pytest.approx(overhead_s + prefill_s)
    decode_s = sum(
        STEPS.decode_base_s + STEPS.decode_sequence_s + STEPS.decode_context_s * (length + past)
        for past in (1, 2, 3, 4)
    )
    assert outcome.jct_s == pytest.approx(overhead_s + prefill_s + decode_s)


def test_answers_side_by_side_share_steps() -> None:
    alone = outcomes("poisson:rate=1,input=16,output=50,num=1")[0]
    together = outcomes("poisson:rate=10000,input=16,output=50,num=20")[10]
    assert alone.tpot_s is not None
    assert together.tpot_s is not None
    assert together.tpot_s - alone.tpot_s == pytest.approx(19 * STEPS.decode_sequence_s, rel=0.1)


def test_a_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    write_profile(path, PROFILE)
    assert read_profile(path) == PROFILE


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "version"),
        ({"steps": {"prefill_base_s": -1}}, "prefill_base_s"),
        ({"color": "red"}, "color"),
    ],
)
def test_what_is_no_profile_is_refused(
    change: dict[str, object], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(msgspec.json.encode(msgspec.to_builtins(PROFILE) | change))
    with pytest.raises(ConfigError, match=says):
        read_profile(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_profile(tmp_path / "nowhere.json")
