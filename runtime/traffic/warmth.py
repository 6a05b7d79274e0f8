"""Whether one run found in caches what an earlier one of the same traffic had left there.

Then the two differ by more than what they compare. Knows outcomes only.
"""

from collections.abc import Sequence

from mserve.runtime.traffic.outcomes import Outcome, summarize
from mserve.runtime.traffic.report import share_text

_MOSTLY = 0.5  # of the prompt tokens
_FEWER = 0.5  # times: an earlier run that had at most so much of it cached was cold beside this one


def warmed_words(this: Sequence[Outcome], earlier: Sequence[Outcome], name: str) -> str:
    """A sentence, "" where there is nothing to say. Both were of one server; `name` is the earlier
    run's."""
    if _lengths(this) != _lengths(earlier):
        return ""
    now, before = summarize(this).cached_share, summarize(earlier).cached_share
    if now < _MOSTLY or before > _FEWER * now:
        return ""
    return (
        f"Of this run's prompts {share_text(now)} were cached, of {name}'s {share_text(before)}, with the"
        " same traffic at the same address: if nothing was restarted in between, this run found what the"
        " other had left, and is faster for that alone. Leave --seed out, so that prompts are new."
    )


def _lengths(outcomes: Sequence[Outcome]) -> list[int]:
    return sorted(outcome.num_prompt for outcome in outcomes)
