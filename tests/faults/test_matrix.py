"""A worker is killed or frozen at every step of every strategy, and the client notices nothing but a pause."""

import itertools
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from served import Served, serving
from traffic import STYLES, Kind, Seen, ask, request

STORY = "The little girl opened the door and went into the garden. " * 45
LEAST_TOKENS = 20  # of an answer: more than bench/sabotage.py waits for in the middle of one
RESUMED_WITHIN_S = {signal.SIGKILL: 2.0, signal.SIGSTOP: 5.0}
CLEAN_WITHIN_S = 2.0
ENGINE = ("--kv-memory", "32MiB", "--chunk-tokens", "128")
STEP_DELAY_S = 0.015

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
    """A strategy, how many workers of each pool it gets, and the phases that its requests have.
    `num_spare` of each pool may still be starting when the next one is killed."""

    strategy: str
    workers: str
    phases: tuple[str, ...]
    text: str = ""  # of one that does not ship
    warm: bool = False  # prompts are cached somewhere before
    num_spare: int = 1
    is_like_others: bool = False  # its requests have the steps of another case's

    @property
    def arguments(self) -> tuple[str, ...]:
        return tuple(word for pool in self.workers.split() for word in ("--cluster", pool))

    @property
    def counts(self) -> dict[str, int]:
        pairs = (pool.split("=") for pool in self.workers.split())
        return {name: int(count) for name, count in pairs}

    @property
    def num_workers(self) -> int:
        return sum(self.counts.values())

    @property
    def needed(self) -> dict[str, int]:
        """Who must be there before a worker is killed."""
        return {name: count - self.num_spare for name, count in self.counts.items()}

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
    Case("data_parallel", "workers=3", WHOLE),
    Case("least_loaded", "workers=3", WHOLE, is_like_others=True),
    Case("migration", "workers=3", WHOLE, is_like_others=True),
    Case("moving", "workers=3", ("send", "receive", "handed_over"), MOVING, warm=True),
    Case(
        "handoff",
        "workers=4",
        (*SPLIT, "handed_over"),
        # As it ships one worker may be both.
        shipped(
            "handoff",
            "argmin(load(w) for w in workers)",
            "argmin(load(w) for w in workers where w != here)",
        ),
    ),
    Case("prefill_decode", "prefill=3 decode=3", (*SPLIT, "handed_over")),
    Case("cache_aware", "prefill=3 decode=3", SPLIT, is_like_others=True),
    Case("balanced", "prefill=3 decode=3", SPLIT, is_like_others=True),
    Case("deflect", "prefill=3 decode=3", SPLIT, is_like_others=True),
    Case(
        "pipeline_prefill",
        "prefill=4 decode=3",
        SPLIT,
        shipped("pipeline_prefill", "long = 6000", "long = 200"),
    ),
)
LONG_STYLES = [style for style in STYLES if style != "stopped"]
KINDS: tuple[Kind, ...] = ("completions", "completions", "chat")
BALANCED = next(case for case in CASES if case.strategy == "balanced")
QUICK = replace(BALANCED, workers="prefill=2 decode=2", num_spare=0)


class Disturbed:
    """A cluster in which one request after the other is disturbed."""

    def __init__(self, server: Served, case: Case) -> None:
        self.server = server
        self._case = case
        self._numbers = itertools.count()

    def check(
        self, phase: str, victim: str, number: signal.Signals, style: str, kind: Kind
    ) -> None:
        """One request is disturbed at `phase`; its answer must be that of an undisturbed one."""
        server = self.server
        asked = request(style, kind, f"{next(self._numbers)} {STORY}")
        server.wait_pools(self._case.needed)
        if self._case.warm:
            ask(server.url, replace(asked, body={**asked.body, "max_tokens": 1, "min_tokens": 0}))
            time.sleep(0.2)  # until the prefix index has heard of it
        server.order(phase, victim, number)
        answer = ask(server.url, asked)
        taken = server.taken()
        assert taken is not None, f"no worker came to {phase}: {answer}"
        try:
            self._compare(answer, ask(server.url, asked))
            assert answer.resumed_after(taken.at_s) < RESUMED_WITHIN_S[number]
            server.wait_clean(CLEAN_WITHIN_S)
        finally:
            for pid in (taken.front, taken.engine):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        if number == signal.SIGSTOP:
            server.wait_ready(self._case.num_workers)
            server.wait_clean(CLEAN_WITHIN_S)  # who was frozen, too

    def _compare(self, answer: Seen, undisturbed: Seen) -> None:
        assert undisturbed.is_whole, undisturbed
        assert undisturbed.completion_tokens >= LEAST_TOKENS
        assert answer.is_whole, f"{answer.error}{answer.broken}"
        assert answer.result == undisturbed.result


class Clusters:
    """The cluster of the case that is on: one after the other, each for all tests of its case.
    `mserve serve` starts again whoever is killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._life = ExitStack()
        self._case: Case | None = None
        self._current: Disturbed | None = None

    def of(self, case: Case) -> Disturbed:
        if self._current is None or case != self._case:
            self.close()
            file = case.file(self._folder)
            cluster = serving(file, *case.arguments, *ENGINE, step_delay_s=STEP_DELAY_S)
            self._current = Disturbed(self._life.enter_context(cluster), case)
            self._case = case
        return self._current

    def close(self) -> None:
        self._current = None
        self._life.close()


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clusters]:
    found = Clusters(tmp_path_factory.mktemp("strategies"))
    yield found
    found.close()


def disturbances() -> Iterator[Any]:
    """Every phase of every strategy: with either process killed and one of three ways to freeze, or,
    where other strategies have the same steps, one of these. The styles of requests take turns."""
    turns = zip(itertools.cycle(LONG_STYLES), itertools.cycle(KINDS), strict=False)
    frozen = itertools.cycle(("engine", "front", "both"))
    for case in CASES:
        for index, phase in enumerate(case.phases):
            faults = [("engine", signal.SIGKILL), ("front", signal.SIGKILL)]
            faults.append((next(frozen), signal.SIGSTOP))
            if case.is_like_others:
                faults = [faults[index % 3]]
            for (victim, number), (style, kind) in zip(faults, turns, strict=False):
                yield case, phase, victim, number, style, kind


ALWAYS = (  # whenever the tests run: a kill per kind of step, and a freeze
    (QUICK, "send", "engine", signal.SIGKILL, "seeded", "chat"),
    (QUICK, "receive", "front", signal.SIGKILL, "penalised", "completions"),
    (QUICK, "first_token", "engine", signal.SIGKILL, "held back", "completions"),
    (QUICK, "decode", "engine", signal.SIGSTOP, "greedy", "chat"),
)


def named(value: Any) -> str:
    return value.strategy if isinstance(value, Case) else str(getattr(value, "name", value))


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("case", "phase", "victim", "number", "style", "kind"),
    [*ALWAYS, *(pytest.param(*each, marks=pytest.mark.chaos) for each in disturbances())],
    ids=named,
)
def test_a_stream_survives(
    clusters: Clusters,
    case: Case,
    phase: str,
    victim: str,
    number: signal.Signals,
    style: str,
    kind: Kind,
) -> None:
    clusters.of(case).check(phase, victim, number, style, kind)
