"""Visits every state of a scene, breadth first, so that the first violation has a shortest story.

Clarke, Grumberg, Peled, Model Checking (1999), chapters 1 and 6: explicit states in a hash table.
"""

from dataclasses import dataclass

from mserve.compiler.verifier.properties import Property, Violation
from mserve.compiler.verifier.rules import RULES, Rules
from mserve.compiler.verifier.scene import Scene
from mserve.compiler.verifier.steps import Move, World
from mserve.compiler.verifier.world import Moves

MAX_STATES = 200_000


@dataclass(frozen=True, slots=True)
class Exploration:
    """`broken` is None if every property holds in all `num_states`; else `moves` lead to it.
    `is_complete` is False where the budget of states did not suffice: then nothing is proved. In
    `num_ends` of the states nothing more happens."""

    num_states: int
    is_complete: bool
    broken: Property | None = None
    sentence: str = ""
    moves: tuple[Move, ...] = ()
    num_ends: int = 0


def explore(
    scene: Scene,
    faults: int,
    rules: Rules = RULES,
    max_states: int = MAX_STATES,
    *,
    has_all_orders: bool = False,
) -> Exploration:
    """All executions of `scene` with at most so many faults. Without a fault one order of messages
    stands for all where `confluence.py` allows it, unless it `has_all_orders`."""
    return _Explorer(scene, rules, has_all_orders).run(faults, max_states)


class _Explorer:
    def __init__(self, scene: Scene, rules: Rules, has_all_orders: bool) -> None:
        self._moves = Moves(scene, rules, has_all_orders=has_all_orders)
        self._came_by: dict[World, tuple[World, Move] | None] = {}
        self._num_before: dict[World, int] = {}  # moves that lead to a state
        self._next: dict[World, list[World]] = {}

    def run(self, faults: int, max_states: int) -> Exploration:
        queue = self._moves.first(faults)
        self._came_by = dict.fromkeys(queue)
        for world in queue:  # grows
            try:
                queue += self._visit(world)
            except _Found as found:
                return self._story(world, found)
            if len(queue) > max_states:
                return Exploration(len(queue), is_complete=False)
        if self._has_cycle(queue):
            sentence = "the same states can come again and again"
            return Exploration(len(queue), True, Property.END, sentence)
        num_ends = sum(not followers for followers in self._next.values())
        return Exploration(len(queue), is_complete=True, num_ends=num_ends)

    def _visit(self, world: World) -> list[World]:
        new, followers, may_go_on = [], [], False
        for move, (after, violation) in self._moves.of(world):
            if violation is not None:
                raise _Found(violation, move)
            assert after is not None, "a move leads to a state or to a violation"
            may_go_on = may_go_on or after.faults == world.faults
            followers.append(after)
            self._num_before[after] = self._num_before.get(after, 0) + 1
            if after not in self._came_by:
                self._came_by[after] = (world, move)
                new.append(after)
        self._next[world] = followers
        if not may_go_on:
            try:
                self._moves.check_end(world)
            except Violation as violation:
                raise _Found(violation, None) from None
        return new

    def _has_cycle(self, worlds: list[World]) -> bool:
        """Kahn's order of all states leaves some out (Communications of the ACM 5, 1962)."""
        ready = [world for world in worlds if not self._num_before.get(world)]
        for world in ready:  # grows
            for after in self._next[world]:
                self._num_before[after] -= 1
                if not self._num_before[after]:
                    ready.append(after)
        return len(ready) < len(worlds)

    def _story(self, world: World, found: "_Found") -> Exploration:
        moves = [] if found.move is None else [found.move]
        step = self._came_by[world]
        while step is not None:
            world, move = step
            moves.append(move)
            step = self._came_by[world]
        violation = found.violation
        return Exploration(
            len(self._came_by), True, violation.broken, violation.sentence, tuple(moves[::-1])
        )


class _Found(Exception):
    def __init__(self, violation: Violation, move: Move | None) -> None:
        super().__init__(violation.sentence)
        self.violation = violation
        self.move = move
