"""Traffic that is made up: arrivals at random, lengths and shared beginnings of given statistics.

Every generator is deterministic in its seed, whatever the process; lengths do not depend on the rate,
so that the same requests can be sent faster. Knows no trace.
"""

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from mserve.runtime.traffic.arrivals import (
    BLOCK_TOKENS,
    Arrival,
    block_ids,
    chained,
    unlike_any,
)


def arrival_times(
    rng: random.Random, *, rate: float, num: int, variation: float = 1.0
) -> Iterator[float]:
    """`num` times in seconds, `rate` a second on average, with gamma-distributed gaps.

    `variation` is the gaps' standard deviation over their mean: 1 is a Poisson process, more comes
    in bursts, 0 is a metronome.
    """
    at_s = 0.0
    for _ in range(num):
        if variation:
            at_s += rng.gammavariate(variation**-2, variation**2 / rate)
        else:
            at_s += 1 / rate
        yield at_s


@dataclass(frozen=True, slots=True)
class Spread:
    """A length, lognormal of the given mean and standard deviation (in tokens, or requests)."""

    mean: float
    deviation: float = 0.0

    def draw(self, rng: random.Random) -> int:
        """At least 1."""
        sigma = self._sigma
        return max(1, round(rng.lognormvariate(math.log(self.mean) - sigma**2 / 2, sigma)))

    def between(self, low: float, high: float) -> int:
        """The mean of the lengths between two quantiles; at least 1."""
        share = self._share_below(high) - self._share_below(low)
        return max(1, round(self.mean * share / (high - low)))

    @property
    def _sigma(self) -> float:
        """The deviation of the logarithm."""
        return math.sqrt(math.log1p((self.deviation / self.mean) ** 2))

    def _share_below(self, quantile: float) -> float:
        """What part of the sum of all lengths the ones below a quantile make up."""
        if not 0 < quantile < 1:
            return quantile
        return _NORMAL.cdf(_NORMAL.inv_cdf(quantile) - self._sigma)


_NORMAL = NormalDist()


def poisson(
    *,
    rate: float,
    num_prompt: int,
    num_output: int,
    num: int,
    seed: int = 0,
    variation: float = 1.0,
    block_tokens: int = BLOCK_TOKENS,
) -> Iterator[Arrival]:
    """Requests of one size that share nothing. `variation` as in `arrival_times`."""
    times = arrival_times(_stream(seed, "times"), rate=rate, num=num, variation=variation)
    for number, at_s in enumerate(times):
        blocks = unlike_any(f"{seed} {number}", num_prompt, block_tokens)
        yield Arrival(at_s, num_prompt, num_output, blocks, block_tokens)


def long_and_short(
    *,
    rate: float,
    num: int,
    seed: int = 0,
    share_long: float = 0.05,
    num_long: int = 8192,
    num_short: int = 512,
    num_output: int = 128,
    variation: float = 1.0,
    block_tokens: int = BLOCK_TOKENS,
) -> Iterator[Arrival]:
    """Mostly short prompts and some long ones, sharing nothing: the mix that AlignedServe is made
    for (arXiv 2605.23389). Lengths in tokens."""
    times = arrival_times(_stream(seed, "times"), rate=rate, num=num, variation=variation)
    rng = _stream(seed, "lengths")
    for number, at_s in enumerate(times):
        num_prompt = num_long if rng.random() < share_long else num_short
        blocks = unlike_any(f"{seed} {number}", num_prompt, block_tokens)
        yield Arrival(at_s, num_prompt, num_output, blocks, block_tokens)


# --- Preble -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SharedWorkload:
    """What Preble's paper tells of a workload (arXiv 2407.00023, section 2): lengths in tokens, and
    fractions of all prompt tokens.

        [ root: the same in all | key portion: the same in a group of requests | a request's own ]

    `key_portion` is the fraction of the middle part. `shared` counts tokens that an earlier prompt
    began with, too: the root and, but for each group's first request, the key portion.
    """

    prompt: Spread
    output: Spread
    shared: float
    key_portion: float
    group: Spread  # requests with the same key portion

    @property
    def root_portion(self) -> float:
        return self.shared - self.key_portion * (1 - 1 / self.group.mean)

    @property
    def own_portion(self) -> float:
        return 1 - self.root_portion - self.key_portion

    @property
    def root_tokens(self) -> int:
        return round(self.root_portion * self.prompt.mean)

    def part(self, portion: float) -> Spread:
        """Of the key portion or a request's own part. Both vary alike, so that prompts as a whole
        vary as they should; the root does not."""
        varying = math.hypot(self.key_portion, self.own_portion)
        return Spread(portion * self.prompt.mean, portion / varying * self.prompt.deviation)


PREBLE: Mapping[str, SharedWorkload] = {
    "toolbench": SharedWorkload(
        Spread(1835, 742), Spread(43, 16), shared=0.85, key_portion=0.76, group=Spread(39, 64)
    ),
    "embodied-agent": SharedWorkload(
        Spread(2285, 471), Spread(16, 13), shared=0.97, key_portion=0.76, group=Spread(48, 8)
    ),
    "programming": SharedWorkload(
        Spread(3871, 1656), Spread(190, 343), shared=0.97, key_portion=0.78, group=Spread(126, 2157)
    ),
    "video-qa": SharedWorkload(
        Spread(9865, 5976), Spread(4, 1.5), shared=0.88, key_portion=0.99, group=Spread(8.6, 2)
    ),
    "loogle": SharedWorkload(
        Spread(23474, 6105), Spread(16, 9.9), shared=0.91, key_portion=0.94, group=Spread(18, 8.6)
    ),
}


def sharing(
    workload: SharedWorkload,
    *,
    rate: float,
    num: int,
    seed: int = 0,
    zipf: float | None = None,
    variation: float = 1.0,
    block_tokens: int = BLOCK_TOKENS,
) -> Iterator[Arrival]:
    """Requests of groups that share beginnings, the groups mixed at random.

    The sizes of groups are the workload's, or with `zipf` as many groups share the requests by
    their rank to the power of -zipf.
    """
    times = arrival_times(_stream(seed, "times"), rate=rate, num=num, variation=variation)
    rng = _stream(seed, "lengths")
    root = chained(0, f"{seed} root", workload.root_tokens), workload.root_tokens
    own_part = workload.part(workload.own_portion)
    groups = _groups(workload, num, seed, zipf)
    num_keys = _key_lengths(workload.part(workload.key_portion), groups, rng)
    for number, (at_s, group) in enumerate(zip(times, groups, strict=True)):
        key = chained(root[0], f"group {group}", num_keys[group]), num_keys[group]
        num_own = own_part.draw(rng)
        own = chained(key[0], f"request {number}", num_own), num_own
        parts = [root, key, own]
        num_prompt = sum(num_tokens for _, num_tokens in parts)
        blocks = block_ids(parts, block_tokens)
        num_output = workload.output.draw(rng)
        yield Arrival(at_s, num_prompt, num_output, blocks, block_tokens)


def _groups(workload: SharedWorkload, num: int, seed: int, zipf: float | None) -> list[int]:
    """The group of each of `num` requests."""
    rng = _stream(seed, "groups")
    if zipf is not None:
        ranks = range(max(1, round(num / workload.group.mean)))
        return rng.choices(ranks, [(rank + 1) ** -zipf for rank in ranks], k=num)
    groups: list[int] = []
    for group in itertools.count():
        groups += [group] * workload.group.draw(rng)
        if len(groups) >= num:
            break
    del groups[num:]
    rng.shuffle(groups)
    return groups


def _key_lengths(spread: Spread, groups: Sequence[int], rng: random.Random) -> Mapping[int, int]:
    """The tokens of each group's key portion.

    Groups in random order take a slice each of the distribution, as wide as their part of the
    requests: so requests have the right mean even where few large groups have most of them.
    """
    sizes = list(Counter(groups).items())
    rng.shuffle(sizes)
    lengths: dict[int, int] = {}
    num_below = 0
    for group, size in sizes:
        low, high = num_below / len(groups), (num_below + size) / len(groups)
        lengths[group] = spread.between(low, high)
        num_below += size
    return lengths


def _stream(seed: int, purpose: str) -> random.Random:
    """Random numbers of their own for each purpose, so that one does not disturb the other."""
    return random.Random(f"{purpose} {seed}")
