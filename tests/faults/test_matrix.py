"""A worker is killed or frozen at every step of every strategy, and the client notices nothing but a pause."""

import itertools
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from served import Kind, Served, Stream, serving

STORY = "The little girl opened the door and went into the garden. " * 45
HOLDING = ["e#", " t#", ". #"]  # stop strings that never come, but whose beginnings hold text back
RESUMED_WITHIN_S = {signal.SIGKILL: 2.0, signal.SIGSTOP: 5.0}
CLEAN_WITHIN_S = 2.0
ENGINE = ("--kv-memory", "32MiB", "--chunk-tokens", "128")
STEP_DELAY_S = 0.02

WHOLE = ("prefill", "first_token", "decode")
SPLIT = ("send", "receive", *WHOLE)
MOVING = """
strategy moving "a cached context always moves"
pool workers
let home  = argmax(cached(w) for w in workers)
let quiet = argmin(cached(w) for w in workers)
route move when cached(home) > 0 { reuse prompt from home   generate on quiet }
route first { generate on home }
"""


@dataclass(frozen=True)
class Case:
    """A strategy, how many workers of each pool it gets, and the phases that its requests have."""

    strategy: str
    workers: str
    phases: tuple[str, ...]
    text: str = ""  # of one that does not ship
    warm: bool = False  # prompts are cached somewhere before

    @property
    def arguments(self) -> tuple[str, ...]:
        return tuple(word for pool in self.workers.split() for word in ("--cluster", pool))

    @property
    def num_workers(self) -> int:
        return sum(int(pool.partition("=")[2]) for pool in self.workers.split())

    def file(self, folder: Path) -> str:
        if not self.text:
            return self.strategy
        path = folder / f"{self.strategy}.mserve"
        path.write_text(self.text)
        return str(path)


def shipped(name: str, old: str, new: str) -> str:
    text = (files("mserve.strategies") / f"{name}.mserve").read_text()
    assert old in text
    return text.replace(old, new)


CASES = (
    Case("data_parallel", "workers=2", WHOLE),
    Case("least_loaded", "workers=2", WHOLE),
    Case("migration", "workers=2", WHOLE),
    Case("moving", "workers=2", ("send", "receive", "handed_over"), MOVING, warm=True),
    Case(
        "handoff",
        "workers=3",
        (*SPLIT, "handed_over"),
        # As it ships one worker may be both.
        shipped(
            "handoff",
            "argmin(load(w) for w in workers)",
            "argmin(load(w) for w in workers where w != here)",
        ),
    ),
    Case("prefill_decode", "prefill=2 decode=2", (*SPLIT, "handed_over")),
    Case("cache_aware", "prefill=2 decode=2", SPLIT),
    Case("balanced", "prefill=2 decode=2", SPLIT),
    Case("deflect", "prefill=2 decode=2", SPLIT),
    Case(
        "pipeline_prefill",
        "prefill=3 decode=2",
        SPLIT,
        shipped("pipeline_prefill", "long = 6000", "long = 200"),
    ),
)
FAULTS = (
    ("engine", signal.SIGKILL),
    ("front", signal.SIGKILL),
    ("engine", signal.SIGSTOP),
    ("front", signal.SIGSTOP),
    ("both", signal.SIGSTOP),
)


class Disturbed:
    """A cluster in which one request after the other is disturbed."""

    def __init__(self, server: Served, case: Case) -> None:
        self.server = server
        self._num_workers = case.num_workers
        self._warm = case.warm
        self._numbers = itertools.count()

    def check(self, phase: str, victim: str, number: signal.Signals, kind: Kind) -> None:
        """One request is disturbed at `phase`; its answer must be that of an undisturbed one."""
        server, prompt = self.server, f"{next(self._numbers)} {STORY}"
        server.wait_ready(self._num_workers)
        if self._warm:
            server.stream(prompt, kind=kind, max_tokens=1)
            time.sleep(0.2)  # until the prefix index has heard of it
        server.order(phase, victim, number)
        answer = server.stream(prompt, kind=kind, stop=HOLDING)
        taken = server.taken()
        assert taken is not None, f"no worker came to {phase}: {answer}"
        try:
            undisturbed = server.stream(prompt, kind=kind, stop=HOLDING)
            assert result(answer) == result(undisturbed)
            assert len(undisturbed.text) > 100
            assert answer.resumed_after(taken.at_s) < RESUMED_WITHIN_S[number]
            server.wait_clean(CLEAN_WITHIN_S)
        finally:
            for pid in (taken.front, taken.engine):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        server.wait_ready(self._num_workers)
        server.wait_clean(CLEAN_WITHIN_S)  # those that were frozen, too


def result(answer: Stream) -> tuple[Any, ...]:
    return answer.error, answer.text, answer.completion_tokens, answer.finish


@pytest.fixture(scope="module")
def balanced() -> Iterator[Disturbed]:
    case = next(case for case in CASES if case.strategy == "balanced")
    with serving(case.strategy, *case.arguments, *ENGINE, step_delay_s=STEP_DELAY_S) as server:
        yield Disturbed(server, case)


@pytest.mark.parametrize(
    ("phase", "victim", "number", "kind"),
    [
        ("send", "engine", signal.SIGKILL, "chat"),
        ("receive", "front", signal.SIGKILL, "completions"),
        ("first_token", "engine", signal.SIGKILL, "completions"),
        ("decode", "engine", signal.SIGSTOP, "chat"),
    ],
)
def test_a_stream_survives(
    balanced: Disturbed, phase: str, victim: str, number: signal.Signals, kind: Kind
) -> None:
    balanced.check(phase, victim, number, kind)


@pytest.mark.chaos
@pytest.mark.timeout(400)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault[0]}-{fault[1].name}")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.strategy)
def test_every_step_of_every_strategy(
    case: Case, fault: tuple[str, signal.Signals], tmp_path: Path
) -> None:
    kinds: itertools.cycle[Kind] = itertools.cycle(("completions", "chat"))
    with serving(
        case.file(tmp_path), *case.arguments, *ENGINE, step_delay_s=STEP_DELAY_S
    ) as server:
        disturbed = Disturbed(server, case)
        for phase in case.phases:
            disturbed.check(phase, *fault, next(kinds))
