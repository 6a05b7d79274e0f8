"""Which plans give their pages up so that older ones get theirs. Functions of values.

Two plans could each hold pages on one worker and wait for the other's on another, for ever. Plan ids
sort by age, and on every worker alike, so in any circle of waiting there is one who gives way
(wound-wait: Rosenkrantz et al., System Level Concurrency Control for Distributed Database Systems,
1978).
"""

from mserve.runtime.worker.plans import Plans

GIVE_WAY_AFTER_S = 0.25
"""How long a plan waits for a peer's pages before it gives up its own for an older one: most such
waits end by themselves."""


def who_gives_way(plans: Plans, now: float) -> dict[str, str]:
    """Plans that hold pages here while they wait for pages elsewhere, though older ones wait for
    theirs: the step of each that waits, by key."""
    starved = plans.engine.starved()
    if not starved:
        return {}
    oldest, since_s = min(starved), now - GIVE_WAY_AFTER_S
    waiting = (*plans.tickets.unopened(since_s), *plans.sends.ungranted(since_s))
    return {key: step for key, step in waiting if key > oldest and _is_stalled(plans, key)}


def _is_stalled(plans: Plans, key: str) -> bool:
    sequence = plans.engine.find(key)
    return sequence is not None and sequence.is_stalled
