"""Kills or freezes a real worker at an exact moment of a request; for bench/failures.py and tests/faults.

Runs inside every engine process of a cluster that `served.py` starts, by way of a `sitecustomize`. An
order is the file `order` in the folder $MSERVE_SABOTAGE, `PHASE VICTIM SIGNAL`: the first engine that
comes to the phase takes it, notes when in the file `taken`, and sends the signal to the victim: itself
(`engine`), its HTTP process (`front`), or `both`. $MSERVE_STEP_DELAY_S makes the model slow, and a
prompt that begins with the token $MSERVE_POISON makes it fail.

    prefill      a batch with a part of a prompt is about to run
    send         a piece of KV has gone out
    receive      a piece of KV has come in
    first_token  the first token of an answer has gone to the HTTP process
    decode       an answer has some tokens
    handed_over  an answer that goes on from received KV has some tokens
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PHASES = ("prefill", "send", "receive", "first_token", "decode", "handed_over")
VICTIMS = ("engine", "front", "both")
DECODED = 12  # tokens: "some"


def is_engine() -> bool:
    return "mserve.runtime.worker.startup" in sys.orig_argv


def arm() -> None:
    """Puts the moments above into the classes of this process."""
    from mserve.runtime.engine.runner import TorchRunner
    from mserve.runtime.worker.process import EngineProcess
    from mserve.runtime.worker.sends import Sends
    from mserve.runtime.worker.tickets import Tickets

    saboteur = Saboteur(Path(os.environ["MSERVE_SABOTAGE"]))
    _after(Tickets, "on_data", lambda: saboteur.reached("receive"))
    _after(Sends, "_send_piece", lambda: saboteur.reached("send"))
    _after(EngineProcess, "_write_events", saboteur.events_written)
    _before(TorchRunner, "run", saboteur.about_to_run)


def keep_restarting() -> None:
    """In `mserve serve`: whoever is killed again and again is started again, at once each time."""
    from mserve.runtime.cluster import restart

    class Patient(restart.RestartPolicy):
        def wait_s(self, num_quick: int) -> float:
            return 0.0

    policy = Patient(max_quick=1 << 20)
    original = restart.Restarter.__init__

    def patiently(self: restart.Restarter, *arguments: Any, **named: Any) -> None:
        original(self, *arguments, **{"policy": policy, **named})

    setattr(restart.Restarter, "__init__", patiently)  # noqa: B010 (a private class is changed on purpose)


class Saboteur:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._delay_s = float(os.environ.get("MSERVE_STEP_DELAY_S", "0"))
        self._poison = int(os.environ.get("MSERVE_POISON", "-1"))
        self._has_first_token = False

    def about_to_run(self, batch: Any) -> None:
        sequences = [*(chunk.sequence for chunk in batch.prefill), *batch.decode]
        if any(sequence.tokens[0] == self._poison for sequence in sequences):
            raise ValueError("a poisoned prompt")
        time.sleep(self._delay_s)
        if batch.prefill:
            self.reached("prefill")
        self._has_first_token = any(not sequence.num_output for sequence in batch.sampled)
        long = [sequence for sequence in batch.decode if sequence.num_output >= DECODED]
        if long:
            self.reached("decode")
        if any(sequence.num_received for sequence in long):
            self.reached("handed_over")

    def events_written(self) -> None:
        if self._has_first_token:
            self._has_first_token = False
            self.reached("first_token")

    def reached(self, phase: str) -> None:
        """Carries out the order, if there is one for this moment."""
        order, mine = self._folder / "order", self._folder / f"mine-{os.getpid()}"
        try:
            if order.read_text().split()[0] != phase:
                return
            order.rename(mine)  # to one engine only
        except (FileNotFoundError, IndexError):
            return
        _, victim, name = mine.read_text().split()
        draft = self._folder / "draft"
        draft.write_text(f"{time.monotonic()} {os.getpid()} {os.getppid()}")
        draft.rename(self._folder / "taken")
        number = signal.Signals[name]
        if victim in ("front", "both"):
            os.kill(os.getppid(), number)
        if victim in ("engine", "both"):
            os.kill(os.getpid(), number)


def _after(owner: type, name: str, call: Callable[[], None]) -> None:
    original = getattr(owner, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named)
        call()
        return result

    setattr(owner, name, wrapped)


def _before(owner: type, name: str, call: Callable[[Any], None]) -> None:
    """`call` gets the method's first argument."""
    original = getattr(owner, name)

    def wrapped(self: Any, first: Any, *arguments: Any, **named: Any) -> Any:
        call(first)
        return original(self, first, *arguments, **named)

    setattr(owner, name, wrapped)
