"""The simulator re-implements nothing that decides: it drives the objects of serving."""

import ast
from pathlib import Path

import mserve.runtime.simulator as package
from mserve.compiler.pipeline import compile_strategy
from mserve.dsl.check import check_text
from mserve.runtime.cluster.prefix_index import MemoryPrefixIndex
from mserve.runtime.engine.engine import Engine
from mserve.runtime.engine.kv_cache import KvCache
from mserve.runtime.engine.scheduler import Scheduler
from mserve.runtime.router.executor import Executor
from mserve.runtime.router.fleet import Fleet
from mserve.runtime.router.history import History
from mserve.runtime.router.placement import Placement
from mserve.runtime.router.reservations import Reservations
from mserve.runtime.simulator.hardware import load_hardware
from mserve.runtime.simulator.pools import WorkerOptions, plan_workers
from mserve.runtime.simulator.simulation import Simulation
from mserve.runtime.traffic.spec import traffic
from mserve.runtime.worker.sends import Sends
from mserve.runtime.worker.service import WorkerService
from mserve.runtime.worker.tickets import Tickets

OWN = Path(next(iter(package.__path__)))
DECIDERS = (
    Executor,
    Placement,
    Fleet,
    Reservations,
    History,
    MemoryPrefixIndex,
    WorkerService,
    Tickets,
    Sends,
    Engine,
    Scheduler,
    KvCache,
)
INSIDE_THE_ENGINE = {"scheduler", "queues", "hit_ratio", "kv_cache", "prefix_tree", "prefix_match"}
TEXT = """
strategy turns "one worker after the other"
pool workers
route turn { generate on next(workers) }
"""


def test_the_parts_of_a_simulation_are_those_of_serving() -> None:
    strategy = compile_strategy(check_text(TEXT, "turns.mserve"))
    specs = plan_workers(strategy.pools, {}, WorkerOptions(), load_hardware())
    simulation = Simulation(strategy, specs)
    simulation.run(traffic("poisson:rate=1,input=10,output=2,num=1"))
    found = _types(simulation)
    for decider in DECIDERS:
        assert decider in found, f"{decider.__name__} is not what runs"
        derived = [each for each in found if issubclass(each, decider) and each is not decider]
        assert not derived, f"{decider.__name__} is replaced by {derived}"


def _types(root: object) -> set[type]:
    """Of all that can be reached from an object by attributes and containers of our own."""
    seen: dict[int, object] = {}
    waiting = [root]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen[id(each)] = each
        if isinstance(each, dict):
            waiting += each.values()
        elif type(each).__module__.startswith("mserve.runtime") and hasattr(each, "__dict__"):
            waiting += vars(each).values()
        elif hasattr(each, "__self__"):
            waiting.append(each.__self__)
    return {type(each) for each in seen.values()}


def test_no_module_of_it_reaches_into_the_engine_or_derives_from_what_decides() -> None:
    names = {decider.__name__ for decider in DECIDERS}
    for path in OWN.glob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                package_name, _, module = node.module.rpartition(".")
                inside = package_name.endswith("engine") and module in INSIDE_THE_ENGINE
                assert not inside, f"{path.name} imports {node.module}"
            if isinstance(node, ast.ClassDef):
                bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
                assert not bases & names, f"{path.name}: {node.name} derives from {bases & names}"
