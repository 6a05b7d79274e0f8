"""A simulation as a trace that chrome://tracing and Perfetto show: a lane for each worker's steps, and
for its faults.

Collects runs of steps as they end, writes JSON in the Trace Event Format. Knows no figures.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mserve.runtime.simulator.results import Happened
from mserve.runtime.simulator.runs import Run


@dataclass(frozen=True, slots=True)
class Span:
    """Equal steps of one worker, in virtual seconds."""

    worker: str
    begin_s: float
    end_s: float
    steps: int
    prompt_tokens: int  # of each step
    answers: int  # sequences that get a token in each step


class ChromeTrace:
    """Pass `record` to a simulation, then ask for the `json`."""

    def __init__(self) -> None:
        self._spans: list[Span] = []

    def record(self, worker: str, run: Run, end_s: float) -> None:
        prompt_tokens = sum(chunk.end - chunk.begin for chunk in run.batch.prefill)
        answers = len(run.batch.decode)
        self._spans.append(Span(worker, run.begin_s, end_s, run.steps, prompt_tokens, answers))

    def json(self, faults: Sequence[Happened] = ()) -> str:
        """One process for each pool, one thread for each worker; microseconds."""
        names = {span.worker for span in self._spans} | {fault.worker for fault in faults}
        workers = sorted(names, key=_in_order)
        pools = list(dict.fromkeys(_pool(worker) for worker in workers))
        places = {
            worker: (pools.index(_pool(worker)), index) for index, worker in enumerate(workers)
        }
        events = [_named("process_name", pool, index, 0) for index, pool in enumerate(pools)]
        events += [_named("thread_name", worker, *places[worker]) for worker in workers]
        events += [_event(span, places[span.worker]) for span in self._spans]
        events += [_instant(fault, places[fault.worker]) for fault in faults]
        return json.dumps({"displayTimeUnit": "ms", "traceEvents": events})


def _pool(worker: str) -> str:
    return worker.rpartition("-")[0]


def _in_order(worker: str) -> tuple[str, int, str]:
    return _pool(worker), len(worker), worker


def _named(kind: str, name: str, process: int, thread: int) -> Mapping[str, object]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}


def _event(span: Span, place: Sequence[int]) -> Mapping[str, object]:
    kinds = [
        name for name, count in (("prefill", span.prompt_tokens), ("decode", span.answers)) if count
    ]
    return {
        "ph": "X",
        "name": " and ".join(kinds) or "moves",
        "pid": place[0],
        "tid": place[1],
        "ts": round(span.begin_s * 1e6, 3),
        "dur": round((span.end_s - span.begin_s) * 1e6, 3),
        "args": {"steps": span.steps, "prompt tokens": span.prompt_tokens, "answers": span.answers},
    }


def _instant(fault: Happened, place: Sequence[int]) -> Mapping[str, object]:
    return {
        "ph": "i",
        "s": "t",  # drawn in its worker's lane
        "name": str(fault),
        "pid": place[0],
        "tid": place[1],
        "ts": round(fault.at_s * 1e6, 3),
    }
