"""What is known about the executions of a strategy's plans: a proof, a counterexample, or neither.

Each scene is explored once per process, whatever routes of whatever strategies lead to it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from mserve.compiler.pipeline import CompiledStrategy
from mserve.compiler.routes import CompiledRoute
from mserve.compiler.verifier.explorer import Exploration, explore
from mserve.compiler.verifier.properties import Property
from mserve.compiler.verifier.scene import Scene
from mserve.compiler.verifier.shapes import RouteForm, scenes_of
from mserve.compiler.verifier.story import story

FAULTS = 1
BUDGET = 30_000  # states of one route


@dataclass(frozen=True, slots=True)
class RouteProof:
    """`num_open` of the route's shapes were not finished: too large for the budget of states."""

    route: str
    num_shapes: int
    num_states: int
    num_open: int = 0


@dataclass(frozen=True, slots=True)
class Proof:
    """No execution breaks a property, as far as `is_complete` goes."""

    strategy: str
    faults: int
    routes: tuple[RouteProof, ...]

    @property
    def is_complete(self) -> bool:
        return not any(route.num_open for route in self.routes)


@dataclass(frozen=True, slots=True)
class Counterexample:
    """An execution of a plan of `route` after which `broken` does not hold, in sentences."""

    strategy: str
    route: str
    broken: Property
    story: tuple[str, ...]


def prove(
    strategy: CompiledStrategy, faults: int = FAULTS, budget: int = BUDGET
) -> Proof | Counterexample:
    """Explores every shape of every route, smallest first, until a route has used up `budget` states.

    Bounded: no route takes more than twice the budget.
    """
    routes = []
    for route in strategy.routes:
        found = _prove_route(strategy.name, route, faults, budget)
        if isinstance(found, Counterexample):
            return found
        routes.append(found)
    return Proof(strategy.name, faults, tuple(routes))


def _prove_route(
    strategy: str, route: CompiledRoute, faults: int, budget: int
) -> RouteProof | Counterexample:
    scenes = scenes_of(_form(route))
    num_states = num_open = 0
    for scene, result in _explored(scenes, faults, budget):
        if result is None:
            num_open += 1
            continue
        if result.broken is not None:
            return Counterexample(strategy, route.name, result.broken, story(scene, result))
        num_states += result.num_states
        num_open += not result.is_complete
    return RouteProof(route.name, len(scenes), num_states, num_open)


def _explored(
    scenes: tuple[Scene, ...], faults: int, budget: int
) -> Iterator[tuple[Scene, Exploration | None]]:
    """None for those that the budget does not reach; one that it reaches may use all of it again."""
    left = budget
    for scene in scenes:
        result = _explore(scene, faults, budget) if left > 0 else None
        left -= result.num_states if result is not None else 0
        yield scene, result


@lru_cache(maxsize=4096)
def _explore(scene: Scene, faults: int, budget: int) -> Exploration:
    return explore(scene, faults, max_states=budget)


def _form(route: CompiledRoute) -> RouteForm:
    return RouteForm(len(route.pieces), route.handoff_after is not None, len(route.replicas))
