"""Costs that are known come out of the points that they make, and nothing below 0 does."""

import math
import random

import pytest

from mserve.runtime.cost import CostProfile
from mserve.runtime.simulator.profile import DecodePoint, MixedPoint, PromptPoint
from mserve.runtime.simulator.profile_fit import fit_costs

CHUNK = 512
REPORTED = CostProfile(8e-3, 2e-4, 1e-8, 9e-3, 1e-4, 1e-3, 1e9, 1000)
BASE_S, SEQUENCE_S, CONTEXT_S = 10e-3, 3e-4, 2e-7  # of decode steps: the loop takes 1 ms more
TOKEN_S, PAIR_S = 2e-4, 1e-8
REQUEST_S, REQUEST_TOKEN_S = 4e-3, 5e-6
PREFILL_BASE_S = REPORTED.prefill_base_s + BASE_S - REPORTED.decode_base_s


def decode(batch: int, context: float) -> DecodePoint:
    step_s = BASE_S + SEQUENCE_S * batch + CONTEXT_S * batch * context
    return DecodePoint(batch, context, 40, step_s)


def prompt(length: int, cached: int = 0, num_sends: int = 0) -> PromptPoint:
    new = length - cached
    ttft_s = REQUEST_S + REQUEST_TOKEN_S * length + PREFILL_BASE_S * math.ceil(new / CHUNK)
    ttft_s += TOKEN_S * new + PAIR_S * new * (cached + new / 2)
    ttft_s += num_sends * (PREFILL_BASE_S + REPORTED.transfer_time(new))
    return PromptPoint(length, cached, num_sends, ttft_s)


def mixed(length: int, num_decodes: int = 1, context: float = 40) -> MixedPoint:
    step_s = PREFILL_BASE_S + TOKEN_S * length + PAIR_S * length**2 / 2
    step_s += (SEQUENCE_S + CONTEXT_S * context) * num_decodes
    return MixedPoint(length, num_decodes, context, step_s)


DECODES = [decode(batch, context) for batch in (1, 2, 4, 8) for context in (20, 2000)]
LENGTHS = (16, 64, 256, 1024, 2048)
PROMPTS = [prompt(length, cached) for length in LENGTHS for cached in (0, length - 1)]


MIXED = [mixed(16), mixed(128), mixed(512, 2)]
WRONG = CostProfile(0.0, 3e-3, 0.0, 9e-3, 1e-4, 1e-3, 1e9, 1000)


@pytest.mark.parametrize(("beside", "reported"), [([], REPORTED), (MIXED, WRONG)])
def test_every_cost_is_found_again(beside: list[MixedPoint], reported: CostProfile) -> None:
    """With steps beside answers, whatever workers say of themselves."""
    fit = fit_costs(PROMPTS, beside, DECODES, reported, CHUNK)
    steps, request = fit.steps, fit.request
    assert steps.decode_base_s == pytest.approx(BASE_S)
    assert steps.decode_sequence_s == pytest.approx(SEQUENCE_S)
    assert steps.decode_context_s == pytest.approx(CONTEXT_S)
    assert steps.prefill_base_s == pytest.approx(PREFILL_BASE_S)
    assert steps.prefill_token_s == pytest.approx(TOKEN_S)
    assert steps.prefill_pair_s == pytest.approx(PAIR_S)
    assert request.base_s == pytest.approx(REQUEST_S)
    assert request.token_s == pytest.approx(REQUEST_TOKEN_S)
    assert max(fit.prompt_error, fit.decode_error) < 1e-9


def test_transfers_are_not_taken_for_prefill() -> None:
    sent = [prompt(length, cached, 1) for length in LENGTHS for cached in (0, length - 1)]
    fit = fit_costs(sent, [], DECODES, REPORTED, CHUNK)
    assert fit.steps.prefill_token_s == pytest.approx(TOKEN_S)
    assert fit.request.base_s == pytest.approx(REQUEST_S)


def test_a_moment_in_which_the_machine_stood_still_has_no_say() -> None:
    stalled = PromptPoint(256, 0, 0, 5.0)
    fit = fit_costs([*PROMPTS, prompt(256), stalled], [], DECODES, REPORTED, CHUNK)
    assert fit.steps.prefill_token_s == pytest.approx(TOKEN_S)


def test_without_a_cache_tokens_count_as_the_engines() -> None:
    fit = fit_costs([p for p in PROMPTS if not p.cached], [], DECODES, REPORTED, CHUNK)
    assert fit.steps.prefill_token_s == pytest.approx(TOKEN_S + REQUEST_TOKEN_S)
    assert fit.request.token_s == 0


def test_points_that_scatter_are_still_told_apart() -> None:
    for seed in range(20):
        rng = random.Random(seed)
        prompts = [
            PromptPoint(p.num_tokens, p.cached, 0, p.ttft_s * rng.uniform(0.9, 1.1))
            for p in PROMPTS
        ]
        beside = [MixedPoint(m.num_tokens, 1, 40, m.step_s * rng.uniform(0.9, 1.1)) for m in MIXED]
        fit = fit_costs(prompts, beside, DECODES, REPORTED, CHUNK)
        whole_s = 1024 * (fit.steps.prefill_token_s + fit.steps.prefill_pair_s * 512)
        assert whole_s == pytest.approx(1024 * (TOKEN_S + PAIR_S * 512), rel=0.15)


def test_no_cost_is_below_0_however_points_scatter() -> None:
    for seed in range(20):
        rng = random.Random(seed)
        noisy = [
            PromptPoint(p.num_tokens, p.cached, 0, p.ttft_s * rng.uniform(0.5, 2)) for p in PROMPTS
        ]
        steps = [DecodePoint(d.batch, d.context, 40, rng.uniform(1e-3, 2e-2)) for d in DECODES]
        fit = fit_costs(noisy, MIXED, steps, REPORTED, CHUNK)
        costs = [getattr(fit.steps, name) for name in fit.steps.__struct_fields__]
        assert min(*costs, *(fit.request.base_s, fit.request.token_s)) >= 0
        assert fit.prompt_error > 0.05
