"""What is known about the executions of a strategy's plans: a proof, a counterexample, or neither.

Each worker is explored alone, among others that may do anything, and each scene as a whole with as
many faults as its budget allows. Both are done once per process, whatever leads to them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from typing import Any

from mserve.compiler.pipeline import CompiledStrategy
from mserve.compiler.routes import CompiledRoute
from mserve.compiler.verifier.alone import Solitude, explore_alone
from mserve.compiler.verifier.explorer import Exploration, explore
from mserve.compiler.verifier.parts import parts_of
from mserve.compiler.verifier.properties import Property
from mserve.compiler.verifier.rules import RULES
from mserve.compiler.verifier.scene import Part, Scene
from mserve.compiler.verifier.shapes import RouteForm, scenes_of
from mserve.compiler.verifier.story import story, story_alone

Run = Callable[..., Iterable[Any]]

FAULTS = 2
BUDGET = 28_000  # states of one scene with one number of faults, and of one worker alone

_GROWTH = (150, 10)
"""How many times the states of no fault (every order of messages), and of one, the next number takes
at most, as measured: where this is beyond the budget it is not tried."""


@dataclass(frozen=True, slots=True)
class RouteProof:
    """`num_proved[f]` of the route's shapes were explored as a whole with at most f faults and no
    more; `num_open` not even without a fault. `num_alone` of its workers' parts were explored with
    any number of faults, `num_alone_open` were too large for that."""

    route: str
    num_shapes: int
    num_states: int
    num_proved: tuple[int, ...]
    num_open: int
    num_alone: int
    num_alone_open: int


@dataclass(frozen=True, slots=True)
class Proof:
    """No execution breaks a property, as far as `is_complete` goes. `faults` were asked for."""

    strategy: str
    faults: int
    routes: tuple[RouteProof, ...]

    @property
    def is_complete(self) -> bool:
        return not any(route.num_open or route.num_alone_open for route in self.routes)


@dataclass(frozen=True, slots=True)
class Counterexample:
    """An execution of a plan of `route` after which `broken` does not hold, in sentences."""

    strategy: str
    route: str
    broken: Property
    story: tuple[str, ...]


def prove(
    strategy: CompiledStrategy, faults: int = FAULTS, budget: int = BUDGET, *, run: Run = map
) -> Proof | Counterexample:
    """Explores every shape of every route, and every worker of each alone.

    Bounded: none takes more than `budget` states for one number of faults. `run` is `map`, or that of
    an executor whose processes share the work.
    """
    routes = []
    for route in strategy.routes:
        found = _prove_route(strategy.name, route, faults, budget, run)
        if isinstance(found, Counterexample):
            return found
        routes.append(found)
    return Proof(strategy.name, faults, tuple(routes))


def _prove_route(
    strategy: str, route: CompiledRoute, faults: int, budget: int, run: Run
) -> RouteProof | Counterexample:
    scenes = scenes_of(_form(route))
    parts = tuple(dict.fromkeys(part for scene in scenes for part in parts_of(scene)))
    num_states, num_proved, num_open = 0, [0] * (faults + 1), 0
    explored = run(_deepened, scenes, repeat(faults), repeat(budget))
    for scene, results in zip(scenes, explored, strict=True):
        last = results[-1]
        if last.broken is not None:
            return Counterexample(strategy, route.name, last.broken, story(scene, last))
        complete = [result for result in results if result.is_complete]
        num_open += not complete
        if complete:
            num_proved[len(complete) - 1] += 1
            num_states += complete[-1].num_states
    alone = list(run(_explore_alone, parts, repeat(budget)))
    broken = _first_broken(zip(parts, alone, strict=True))
    if broken is not None:
        part, found = broken
        assert found.broken is not None, "that is what was looked for"
        return Counterexample(strategy, route.name, found.broken, story_alone(part, found))
    num_states += sum(found.num_states for found in alone)
    num_alone_open = sum(not found.is_complete for found in alone)
    return RouteProof(
        route.name,
        len(scenes),
        num_states,
        tuple(num_proved),
        num_open,
        len(parts),
        num_alone_open,
    )


def _first_broken(found: Iterable[tuple[Part, Solitude]]) -> tuple[Part, Solitude] | None:
    return next((each for each in found if each[1].broken is not None), None)


@lru_cache(maxsize=4096)
def _deepened(scene: Scene, faults: int, budget: int) -> tuple[Exploration, ...]:
    return tuple(_deepening(scene, faults, budget))


def _deepening(scene: Scene, faults: int, budget: int) -> Iterator[Exploration]:
    """With no fault, with one, ... until it breaks, is enough, or would be too large."""
    for number in range(faults + 1):
        result = explore(scene, number, max_states=budget)
        yield result
        if result.broken is not None or not result.is_complete or number == faults:
            return
        if number < len(_GROWTH):
            known = _num_orders(scene, budget) if number == 0 else result.num_states
            if known * _GROWTH[number] > budget:
                return


def _num_orders(scene: Scene, budget: int) -> int:
    """The states of no fault with every order of messages, as far as they tell whether to go on."""
    most = budget // _GROWTH[0]
    return explore(scene, 0, max_states=most, has_all_orders=True).num_states


@lru_cache(maxsize=4096)
def _explore_alone(part: Part, budget: int) -> Solitude:
    return explore_alone(part, RULES, budget)


def _form(route: CompiledRoute) -> RouteForm:
    return RouteForm(len(route.pieces), route.handoff_after is not None, len(route.replicas))
