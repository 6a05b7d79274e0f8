"""1,000 lines are checked in well under a second of CPU time, and twice as many in twice the time."""

import time
from itertools import count

from mserve.dsl.check import check_text

_HEAD = """\
strategy large "many routes"
param tail = 10% in 0%..90%
pool workers
let n = tokens(prompt)
"""
_BLOCK = """\
pool pool{i} {{ batch = continuous(tokens = 8192) }}
let best{i} = argmin(recent(w) + evict_time(n - cached(w), w) for w in pool{i} where queued(w) < {i})
let calm{i} = recent(best{i}) <= 2 * min(recent(w) for w in pool{i})   # a comment
route exploit{i} when cached(best{i}) < n + {i} and calm{i} {{
  compute prompt[:100% - tail] on best{i}
  compute rest on best{i}
  generate on best{i}
}}

"""
_END = "route all { generate on next(workers) }\n"


def _text(num_lines: int) -> str:
    text = _HEAD
    for i in count(1):
        if text.count("\n") + 2 > num_lines:
            return text + _END
        text += _BLOCK.format(i=i)
    raise AssertionError("count never ends")


def _cpu_time_s(text: str) -> float:
    times = []
    for _ in range(2):
        begin = time.process_time()
        checked = check_text(text)
        times.append(time.process_time() - begin)
        assert checked.diagnostics == ()
    return min(times)


def test_speed() -> None:
    check_text(_text(10))  # loads the tables
    thousand, two_thousand = _cpu_time_s(_text(1000)), _cpu_time_s(_text(2000))
    assert thousand < 0.6  # the bar is 0.3 s on a quiet machine
    assert two_thousand < 3 * thousand
