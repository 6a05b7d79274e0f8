"""Measures what work costs on this worker, by running a few batches before there are requests.

Uses pages as if all were free, so it must run before the KV cache hands any out.
"""

from array import array
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import replace

import numpy as np

from mserve.runtime.cost import CostProfile
from mserve.runtime.engine.batching import Batch, Chunk
from mserve.runtime.engine.decode_cost import DecodeCost
from mserve.runtime.engine.moves import Moves
from mserve.runtime.engine.runner import TorchRunner
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.messages import Sampling

_PREFILL_LENGTHS = (16, 64, 256, 1024)
_DECODE_CONTEXT = 128
_DECODE_BATCH = 8
_LONGEST_CONTEXT = 1024
_MOVED_PAGES = 64
_REPEATS = 3
_TRANSFER_BYTES = 1 << 20
_TRANSFER_BASE_S = 0.5e-3
"""Of a message from one engine loop to another: waking up and matching, not copying."""


def measure_costs(
    runner: TorchRunner, clock: Callable[[], float], budget_s: float = 0.6
) -> CostProfile:
    """Runs prefills of growing length while they fit in `budget_s`, decodes and KV copies.

    `clock` returns seconds. The fastest of a few runs counts, since only noise makes one slower.
    """
    base, token, pair = _fit_prefill(_prefill_times(runner, clock, budget_s))
    alone = _decode_time(runner, clock, 1)
    together = _decode_time(runner, clock, _DECODE_BATCH)
    per_sequence = max(0.0, (together - alone) / (_DECODE_BATCH - 1))
    return CostProfile(
        prefill_base_s=base,
        prefill_token_s=token,
        prefill_pair_s=pair,
        decode_base_s=max(0.0, alone - per_sequence),
        decode_sequence_s=per_sequence,
        transfer_base_s=_TRANSFER_BASE_S,
        transfer_bytes_per_s=_copy_rate(runner, clock),
        kv_bytes_per_token=runner.kv.num_layers * runner.kv.bytes_per_token_layer,
    )


def _prefill_times(
    runner: TorchRunner, clock: Callable[[], float], budget_s: float
) -> list[tuple[int, float]]:
    """(tokens, seconds) for as many lengths as the budget allows; always two, since one cannot tell
    what is fixed in a step from what a token takes."""
    most = min(runner.pool.num_pages * runner.pool.page_size, runner.config.max_positions)
    deadline = clock() + budget_s
    times: list[tuple[int, float]] = []
    for length in sorted({min(length, most) for length in _PREFILL_LENGTHS}):
        if len(times) > 1:
            previous, seconds = times[-1]
            if clock() + _REPEATS * seconds * length / previous > deadline:
                break
        times.append((length, _prefill_time(runner, clock, length)))
    return times


def _prefill_time(runner: TorchRunner, clock: Callable[[], float], length: int) -> float:
    sequence = _scratch(runner, length, first_page=0)
    batch = Batch((Chunk(sequence, 0, length, sample=True),), ())
    return _fastest(lambda: runner.run(batch), clock)


def _fit_prefill(times: list[tuple[int, float]]) -> tuple[float, float, float]:
    """(base, per token, per pair): least squares of the relative error, none of them negative."""
    lengths, seconds = np.array(times).T
    terms = np.stack([np.ones_like(lengths), lengths, lengths**2 / 2], axis=1)
    used = list(range(min(len(times), 3)))
    if len(used) == 1:
        return 0.0, float(seconds[0] / lengths[0]), 0.0
    while True:
        weighted = terms[:, used] / seconds[:, None]
        found = np.linalg.lstsq(weighted, np.ones_like(seconds))[0]
        if (found >= 0).all():
            break
        del used[int(found.argmin())]  # not the last: one positive term fits positive times
    base, token, pair = (found[used.index(i)] if i in used else 0.0 for i in range(3))
    return float(base), float(token), float(pair)


def measure_decodes(runner: TorchRunner, clock: Callable[[], float]) -> DecodeCost:
    """What lengths, the longest among them and moves to and from the host add to a decode step."""

    def decode_time(contexts: Items[int]) -> float:
        batch = _decodes(runner, contexts)
        return _fastest(lambda: runner.run(batch), clock)

    page_size = runner.pool.page_size
    longest = min(_LONGEST_CONTEXT, runner.config.max_positions, runner.pool.num_pages * page_size)
    move_s = _move_time(runner, clock) / page_size
    return DecodeCost.fitted(decode_time, longest - 1, move_s)


def _move_time(runner: TorchRunner, clock: Callable[[], float]) -> float:
    """Seconds that a page on its way to the host, or back, adds to a step."""
    num_pages = min(_MOVED_PAGES, runner.pool.host_pages, runner.pool.num_pages)
    if not num_pages:
        return 0.0
    batch = _decodes(runner, [_DECODE_CONTEXT])
    saves = Moves(saves=tuple((page, page) for page in range(num_pages)))
    alone_s = _fastest(lambda: runner.run(batch), clock)
    moving_s = _fastest(lambda: runner.run(replace(batch, moves=saves)), clock)
    return max(0.0, moving_s - alone_s) / num_pages


def _decode_time(runner: TorchRunner, clock: Callable[[], float], size: int) -> float:
    batch = _decodes(runner, [_DECODE_CONTEXT] * size)
    return _fastest(lambda: runner.run(batch), clock)


def _decodes(runner: TorchRunner, contexts: Items[int]) -> Batch:
    """One token each after so many others."""
    sequences, first_page = [], 0
    for context in contexts:
        sequence = _scratch(runner, context, first_page)
        sequence.num_computed = context
        sequence.tokens.append(0)
        sequences.append(sequence)
        first_page += len(sequence.pages)
    return Batch((), tuple(sequences))


def _copy_rate(runner: TorchRunner, clock: Callable[[], float]) -> float:
    """Bytes per second of reading KV into a message and writing it to its pages again."""
    kv, num_pages = runner.kv, runner.pool.num_pages
    most = num_pages * runner.pool.page_size
    tokens = max(1, min(most, _TRANSFER_BYTES // kv.bytes_per_token_layer))
    pages = array("i", range(num_pages))
    message = memoryview(bytearray(tokens * kv.bytes_per_token_layer))

    def copy() -> None:
        kv.read(pages, 0, 0, tokens, message)
        kv.write(pages, 0, 0, tokens, message)

    return len(message) / max(_fastest(copy, clock), 1e-9)


def _scratch(runner: TorchRunner, length: int, first_page: int) -> Sequence:
    """A greedy sequence of `length` tokens; pages wrap around where memory is short."""
    num_pages = -(-(length + 1) // runner.pool.page_size)
    return Sequence(
        key="calibration",
        tokens=array("i", bytes(4 * length)),
        num_prompt=length,
        sampling=Sampling(max_tokens=1, temperature=0.0),
        pages=array("i", [(first_page + i) % runner.pool.num_pages for i in range(num_pages)]),
    )


def _fastest(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds of the fastest run after one that warms up."""
    work()
    times = []
    for _ in range(_REPEATS):
        begin = clock()
        work()
        times.append(clock() - begin)
    return min(times)
