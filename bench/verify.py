"""How long the proofs of the shipped strategies take: states, seconds, states per second.

python bench/verify.py [--faults N] [--states N]
"""

import argparse
import time
from importlib.resources import files

from mserve.compiler.pipeline import compile_strategy
from mserve.compiler.verifier import Proof, prove
from mserve.compiler.verifier.proof import BUDGET, FAULTS
from mserve.dsl.check import check_bytes


def main() -> None:
    """Prints one line per strategy; scenes that an earlier one had too are not explored again."""
    parser = argparse.ArgumentParser(description="Time the proofs of the shipped strategies.")
    parser.add_argument("--faults", type=int, default=FAULTS)
    parser.add_argument("--states", type=int, default=BUDGET)
    arguments = parser.parse_args()
    started = time.perf_counter()
    for file in sorted(files("mserve.strategies").iterdir(), key=lambda each: each.name):
        if file.name.endswith(".mserve"):
            _measure(file.name, file.read_bytes(), arguments.faults, arguments.states)
    print(f"{'all':20} {time.perf_counter() - started:7.2f} s")


def _measure(name: str, text: bytes, faults: int, states: int) -> None:
    strategy = compile_strategy(check_bytes(text, name))
    started = time.perf_counter()
    found = prove(strategy, faults, states)
    took_s = time.perf_counter() - started
    if not isinstance(found, Proof):
        print(f"{strategy.name:20} {took_s:7.2f} s  broken: {found.broken}")
        return
    num_states = sum(route.num_states for route in found.routes)
    num_open = sum(route.num_open for route in found.routes)
    rest = f", {num_open} shapes left open" if num_open else ""
    print(f"{strategy.name:20} {took_s:7.2f} s  {num_states:7,} states{rest}")


if __name__ == "__main__":
    main()
