"""From measured points to costs: least squares of relative errors, no cost below 0 (small exact NNLS).

Knows neither how the points were measured nor what the costs are for.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import fmean, median
from typing import NamedTuple

import numpy as np

from mserve.runtime.cost import CostProfile
from mserve.runtime.simulator.profile import (
    DecodePoint,
    MixedPoint,
    PromptPoint,
    RequestCosts,
    StepCosts,
)


class Fit(NamedTuple):
    """Errors are means over the points, as shares of what was measured."""

    steps: StepCosts
    request: RequestCosts
    prompt_error: float
    decode_error: float


class Row(NamedTuple):
    """An equation: `terms` times what is sought are `seconds`, of `whole_s` that were measured."""

    terms: tuple[float, ...]
    seconds: float
    whole_s: float


def fit_costs(
    prompts: Sequence[PromptPoint],
    mixed: Sequence[MixedPoint],
    decodes: Sequence[DecodePoint],
    reported: CostProfile,
    chunk_tokens: int,
) -> Fit:
    """`reported` is what the workers say of themselves.

    Lone requests cannot tell what is fixed in a step from what is fixed in a request; `mixed` steps can.
    Without any, a step's part is what the workers measured, corrected by what decode steps took
    longer than they say: that is spent in the engine's loop, which both kinds have. And where nothing
    was cached either, all that a token costs counts as the step's.
    """
    decode, decode_error = _fit_decodes(decodes)
    base_s = None
    if not mixed:
        base_s = max(0.0, reported.prefill_base_s + decode[0] - reported.decode_base_s)
    rows = [_prompt_row(point, base_s, reported, chunk_tokens) for point in _medians(prompts)]
    if not mixed and not any(point.cached > 1 for point in prompts):
        rows = [row._replace(terms=(*row.terms[:4], 0.0)) for row in rows]
    rows += [_mixed_row(point, decode) for point in _mixed_medians(mixed)]
    found, prompt_error = _fitted(rows)
    prefill_base_s, token_s, pair_s, request_base_s, request_token_s = found
    steps = StepCosts(base_s or prefill_base_s, token_s, pair_s, *decode)
    return Fit(steps, RequestCosts(request_base_s, request_token_s), prompt_error, decode_error)


def _fit_decodes(points: Sequence[DecodePoint]) -> tuple[list[float], float]:
    """(base, per sequence, per position attended to), and the error."""
    return _fitted(
        [
            Row((1.0, point.batch, point.batch * point.context), point.step_s, point.step_s)
            for point in points
        ]
    )


def _prompt_row(
    point: PromptPoint, base_s: float | None, reported: CostProfile, chunk_tokens: int
) -> Row:
    """Terms: steps with prompts, tokens computed, pairs, requests, tokens computed or not. The first is
    0 where `base_s` is known."""
    new = point.num_tokens - point.cached
    num_steps = math.ceil(new / chunk_tokens) + point.num_sends  # a receiver has a step of its own
    known_s = point.num_sends * reported.transfer_time(new)
    if base_s is not None:
        known_s, num_steps = known_s + base_s * num_steps, 0
    pairs = new * (point.cached + new / 2)
    terms = (num_steps, new, pairs, 1.0, point.num_tokens)
    return Row(terms, point.ttft_s - known_s, point.ttft_s)


def _mixed_row(point: MixedPoint, decode: Sequence[float]) -> Row:
    """The same terms."""
    num = point.num_decodes
    known_s = decode[1] * num + decode[2] * num * point.context
    terms = (1.0, point.num_tokens, point.num_tokens**2 / 2, 0.0, 0.0)
    return Row(terms, point.step_s - known_s, point.step_s)


def _medians(points: Sequence[PromptPoint]) -> list[PromptPoint]:
    """One for each kind of request: another process that took the core for a moment has no say."""
    kinds: dict[tuple[int, int, int], list[float]] = defaultdict(list)
    for point in points:
        kinds[point.num_tokens, point.cached, point.num_sends].append(point.ttft_s)
    return [PromptPoint(*kind, median(times)) for kind, times in kinds.items()]


def _mixed_medians(points: Sequence[MixedPoint]) -> list[MixedPoint]:
    """As `_medians`."""
    kinds: dict[tuple[int, int, float], list[float]] = defaultdict(list)
    for point in points:
        kinds[point.num_tokens, point.num_decodes, point.context].append(point.step_s)
    return [MixedPoint(*kind, median(times)) for kind, times in kinds.items()]


def _fitted(rows: Sequence[Row]) -> tuple[list[float], float]:
    """A coefficient for each term, and the mean error. The best of all sets of terms whose coefficients
    are positive; terms are few, so all sets are tried."""
    terms = np.array([row.terms for row in rows], float)  # [rows, terms]
    seconds = np.array([row.seconds for row in rows])
    weights = 1 / np.array([row.whole_s for row in rows])
    scale = np.abs(terms).max(axis=0)
    weighted = terms * weights[:, None]
    present = [index for index, most in enumerate(scale.tolist()) if most > 0]
    best, least = np.zeros(terms.shape[1]), math.inf
    for kept in _subsets(present):
        part = np.linalg.lstsq(weighted[:, kept] / scale[kept], seconds * weights, rcond=None)[0]
        found = np.zeros(terms.shape[1])
        found[kept] = part / scale[kept]
        error = float(np.square(weighted @ found - seconds * weights).sum())
        if (part >= 0).all() and error < least:
            best, least = found, error
    errors = np.abs(terms @ best - seconds) * weights
    return [float(value) for value in best], fmean(errors.tolist())


def _subsets(items: Sequence[int]) -> Iterator[list[int]]:
    """All but the empty one."""
    for size in range(1, len(items) + 1):
        yield from map(list, itertools.combinations(items, size))
