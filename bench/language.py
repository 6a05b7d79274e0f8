"""How long do authors wait? Parsing, checking, formatting and navigating, and the command itself.

    python bench/language.py [--json FILE]

Strategies of 100, 1,000 and 16,000 lines (mostly routes with comprehensions), best of a few runs,
in CPU time of one process; the command's time is from the shell, interpreter start included.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from mserve.dsl.check import check_source
from mserve.dsl.format import format_source
from mserve.dsl.navigation import Navigation
from mserve.dsl.parser import parse
from mserve.dsl.source import Source
from record import write_record

SIZES = (100, 1_000, 4_000)
NUM_RUNS = 3
NUM_STARTS = 5

_HEAD = """\
strategy large "many routes"

param tail = 10% in 0%..90%

pool workers

let n = tokens(prompt)

"""
_BLOCK = """\
pool pool{i} {{ batch = continuous(tokens = 8192) }}

let best{i} = argmin(recent(w) + evict_time(n - cached(w), w) for w in pool{i} where queued(w) < {i})
let calm{i} = recent(best{i}) <= 2 * min(recent(w) for w in pool{i})   # how busy the others are

route exploit{i} when cached(best{i}) < n + {i} and calm{i} {{
  compute prompt[:100% - tail] on best{i}
  compute rest on best{i}
  generate on best{i}
}}

"""
_END = "route all { generate on next(workers) }\n"


@dataclass(frozen=True, slots=True)
class Row:
    lines: int
    parse_ms: float
    check_ms: float
    format_ms: float
    hover_ms: float
    command_ms: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    rows = [measure(lines) for lines in SIZES]
    print(
        f"{'lines':>7}{'parse':>10}{'check':>10}{'format':>10}{'hover':>10}{'`mserve check`':>18}"
    )
    for row in rows:
        times = (row.parse_ms, row.check_ms, row.format_ms, row.hover_ms)
        cells = "".join(f"{each:>7.1f} ms" for each in times)
        print(f"{row.lines:>7}{cells}{row.command_ms:>15.1f} ms")
    write_record(
        arguments.json,
        "how long a strategy file takes to read",
        ["mserve", "lark"],
        rows=[asdict(row) for row in rows],
    )
    return 0


def measure(num_lines: int) -> Row:
    text = strategy_of(num_lines)
    source = Source.from_text(text)
    found = check_source(source)
    assert found.diagnostics == (), "the strategy that is measured is clean"
    return Row(
        num_lines,
        cpu_ms(lambda: parse(source)),
        cpu_ms(lambda: check_source(source)),
        cpu_ms(lambda: format_source(source)),
        cpu_ms(lambda: Navigation(source).describe(text.rindex("next"))),
        command_ms(text),
    )


def strategy_of(num_lines: int) -> str:
    """At least `num_lines` lines, less than a block more."""
    text = [_HEAD]
    lines = _HEAD.count("\n") + 1
    for i in count(1):
        if lines >= num_lines:
            break
        text.append(_BLOCK.format(i=i))
        lines += _BLOCK.count("\n")
    return "".join([*text, _END])


def cpu_ms(work: Callable[[], object]) -> float:
    times = []
    for _ in range(NUM_RUNS):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return round(min(times) * 1e3, 1)


def command_ms(text: str) -> float:
    """Wall-clock time of `mserve check FILE`, best of a few."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.mserve"
        path.write_text(text, "utf-8")
        times = []
        for _ in range(NUM_STARTS):
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-m", "mserve", "check", str(path)], check=True)
            times.append(time.perf_counter() - begin)
    return round(min(times) * 1e3, 1)


if __name__ == "__main__":
    sys.exit(main())
