"""How long the proofs of the shipped strategies take: states and CPU seconds, in one process.

python bench/verify.py [--faults N] [--states N] [--json FILE]
"""

import argparse
import gc
import json
import time
from importlib.resources import files
from pathlib import Path

from mserve.compiler.pipeline import compile_strategy
from mserve.compiler.verifier import Proof, prove
from mserve.compiler.verifier.proof import BUDGET, FAULTS
from mserve.dsl.check import check_bytes

Row = dict[str, object]


def main() -> None:
    """Prints one line per strategy; scenes that an earlier one had too are not explored again."""
    parser = argparse.ArgumentParser(description="Time the proofs of the shipped strategies.")
    parser.add_argument("--faults", type=int, default=FAULTS)
    parser.add_argument("--states", type=int, default=BUDGET)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    gc.disable()  # as `mserve verify` does
    started = time.process_time()
    rows = [
        _measured(file.name, file.read_bytes(), arguments.faults, arguments.states)
        for file in sorted(files("mserve.strategies").iterdir(), key=lambda each: each.name)
        if file.name.endswith(".mserve")
    ]
    total_s = round(time.process_time() - started, 2)
    print(f"{'all':20} {total_s:7.2f} s")
    if arguments.json is not None:
        found = {"faults": arguments.faults, "cpu_s": total_s, "strategies": rows}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


def _measured(name: str, text: bytes, faults: int, states: int) -> Row:
    strategy = compile_strategy(check_bytes(text, name))
    started = time.process_time()
    found = prove(strategy, faults, states)
    took_s = round(time.process_time() - started, 2)
    if not isinstance(found, Proof):
        print(f"{strategy.name:20} {took_s:7.2f} s  broken: {found.broken}")
        return {"strategy": strategy.name, "cpu_s": took_s, "broken": found.broken}
    num_states = sum(route.num_states for route in found.routes)
    num_shapes = [sum(counts) for counts in zip(*(r.num_proved for r in found.routes), strict=True)]
    print(
        f"{strategy.name:20} {took_s:7.2f} s  {num_states:7,} states, shapes by faults {num_shapes}"
    )
    return {
        "strategy": strategy.name,
        "cpu_s": took_s,
        "states": num_states,
        "shapes_by_faults": num_shapes,
        "is_complete": found.is_complete,
    }


if __name__ == "__main__":
    main()
