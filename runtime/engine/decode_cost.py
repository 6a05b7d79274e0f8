"""What a decode step takes by the lengths in it, and what it would gain to batch similar ones together.

Knows lengths and no sequence.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

MIN_GAIN = 0.10
"""Predicted to save less of the time than this, batches are formed as ever."""
STAY = 30
"""So many times as long as KV was moved for it a batch stays together."""

_SHORT, _LONG, _BATCH = 64, 1024, 8


@dataclass(frozen=True, slots=True)
class DecodeCost:
    """Seconds of a decode step over n sequences: `fixed + sequence * n + position * (sum of their
    contexts) + longest * (longest context)`.

    The paper's `weights/W + other + f * KV bytes/W` with `f = 1 + 0.7 rho` and `rho = (G / (n *
    kv_heads)) * longest/mean` is of this form: `position` is a position's bytes/W, `longest` that times
    0.7 G / kv_heads, for G multiprocessors. A kernel that splits KV has a `longest` of about 0.
    `move` is what a position takes between host and device, one way.
    """

    fixed_s: float
    sequence_s: float = 0.0
    position_s: float = 0.0
    longest_s: float = 0.0
    move_s: float = 0.0

    @classmethod
    def fitted(
        cls,
        decode_time: Callable[[Sequence[int]], float],
        longest: int = _LONG,
        move_s: float = 0.0,
    ) -> "DecodeCost":
        """From the seconds of four steps, over sequences of given contexts of `longest` at most: one,
        several short, several long, and one long among short ones."""
        short, long, size = min(_SHORT, longest // 2), longest, _BATCH
        alone_s, short_s = decode_time([short]), decode_time([short] * size)
        long_s, mixed_s = decode_time([long] * size), decode_time([*[short] * (size - 1), long])
        position_s = max(0.0, (long_s - mixed_s) / (size - 1) / (long - short))
        longest_s = max(0.0, (mixed_s - short_s) / (long - short) - position_s)
        sequence_s = max(0.0, (short_s - alone_s) / (size - 1) - position_s * short)
        fixed_s = max(0.0, alone_s - sequence_s - (position_s + longest_s) * short)
        return cls(fixed_s, sequence_s, position_s, longest_s, move_s)

    def step_time(self, num_sequences: int, num_positions: int, longest: int) -> float:
        shared = self.fixed_s + self.longest_s * longest
        return shared + self.sequence_s * num_sequences + self.position_s * num_positions


NO_COST = DecodeCost(0.0)


@dataclass(frozen=True, slots=True)
class Room:
    """What one batch can hold, at least 1 of both."""

    sequences: int
    positions: int


def predicted_gain(
    lengths: Sequence[int], room: Room, cost: DecodeCost, stay_s: float, num_tokens: float
) -> float:
    """The share of time that is saved when everyone of these gets one token in batches of similar
    length instead of in order; negative where that takes longer.

    Who does not find room in half of the device, as newcomers need the other, goes to the host and
    comes back: once for the `num_tokens` that each still generates, and with the batch for each stay,
    which lasts for `stay_s` and for `STAY` times as long as that takes.
    """
    plain = _Round.of(lengths, room, cost)
    aligned = _Round.of(sorted(lengths, reverse=True), room, cost)
    if plain.total_s <= 0:
        return 0.0
    moved_s = 2 * cost.move_s * max(0.0, sum(lengths) - room.positions / 2)
    batch_s = moved_s / aligned.num_batches
    switching = batch_s / max(stay_s, STAY * batch_s) if batch_s else 0.0
    total_s = aligned.total_s * (1 + switching) + moved_s / max(1.0, num_tokens)
    return 1.0 - total_s / plain.total_s


@dataclass(frozen=True, slots=True)
class _Round:
    """All have been in a batch, each filled before the next one is begun."""

    num_batches: int
    total_s: float

    @classmethod
    def of(cls, lengths: Iterable[int], room: Room, cost: DecodeCost) -> "_Round":
        times: list[float] = []
        count, positions, longest = 0, 0, 0
        for length in lengths:
            is_full = count >= room.sequences or positions + length > room.positions
            if count and is_full:
                times.append(cost.step_time(count, positions, longest))
                count = positions = longest = 0
            count, positions, longest = count + 1, positions + length, max(longest, length)
        if count:
            times.append(cost.step_time(count, positions, longest))
        return cls(len(times), sum(times))
