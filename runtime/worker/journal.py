"""What a worker tells its HTTP process: how each step of each plan goes, tokens, failures, blocks.

Owns the sessions and the events not yet passed on. Decides nothing; `unix_s(now)` turns the driver's
clock into unix seconds for reports.
"""

from collections.abc import Callable

from mserve.compiler.protocol import StepState
from mserve.runtime.cluster.membership import BlockEvents
from mserve.runtime.engine import events
from mserve.runtime.errors import RequestError
from mserve.runtime.messages import PlanCall, Problem
from mserve.runtime.worker import ipc
from mserve.runtime.worker.sessions import Session, Sessions


class Journal:
    def __init__(self, unix_s: Callable[[float], float]) -> None:
        self._unix_s = unix_s
        self._outbox: list[ipc.Event] = []
        self.sessions = Sessions()
        self.block_sequence = 0  # of the latest batch of block events

    def drain(self) -> list[ipc.Event]:
        out, self._outbox = self._outbox, []
        return out

    # --- plans ---------------------------------------------------------------------------------

    def begin(self, call: PlanCall, now: float) -> Session:
        return self.sessions.begin(call, self._unix_s(now))

    def failed(self, key: str, error: RequestError, step: str) -> None:
        self._outbox.append(ipc.Failed(key, Problem.of(error, step)))

    def all_done(self, key: str, now: float) -> None:
        """The sequence has ended: the steps that kept its books are done with it."""
        session = self.sessions.get(key)
        records = [] if session is None else list(session.steps.values())
        for record in records:
            if record.state is not StepState.DONE:
                self.finished(key, record.step, now)

    # --- steps ---------------------------------------------------------------------------------

    def started(self, key: str, step: str, now: float, **counts: int) -> None:
        session = self.sessions.get(key)
        if session is not None and session.steps[step].state is StepState.PENDING:
            record = session.steps[step]
            record.counts.update(counts)
            record.start(self._unix_s(now))
            self._outbox.append(ipc.Stepped(key, record.report()))

    def finished(self, key: str, step: str, now: float, **counts: int) -> None:
        session = self.sessions.get(key)
        if session is not None:
            record = session.steps[step]
            record.finish(self._unix_s(now), **counts)
            self._outbox.append(ipc.Stepped(key, record.report()))

    def computed(self, event: events.StepComputed, now: float) -> None:
        self._send_advanced(
            event.key, event.step, now, computed=event.computed, matched=event.reused
        )

    def sent(self, key: str, step: str, num_tokens: int, num_bytes: int, now: float) -> None:
        self._send_advanced(key, step, now, sent=num_tokens, sent_bytes=num_bytes)

    def _send_advanced(self, key: str, step: str, now: float, **counts: int) -> None:
        """A send is done when it is computed and sent, whichever is noticed first: receivers may
        have the last layer before the engine has committed its batch."""
        session = self.sessions.get(key)
        if session is not None:
            record = session.steps[step]
            record.counts.update(counts)
            if {"sent", "computed"} <= record.counts.keys():
                self.finished(key, step, now)

    def received(
        self,
        key: str,
        step: str,
        opened_s: float,
        now: float,
        matched: int,
        num_tokens: int,
        num_bytes: int,
    ) -> None:
        """A ticket is whole. Its step is reckoned from when its sender came, at `opened_s`."""
        session = self.sessions.get(key)
        assert session is not None, "a ticket has a living plan"
        session.received += num_tokens
        session.steps[step].started_s = self._unix_s(opened_s)
        self.finished(
            key, step, now, matched=matched, received=num_tokens, received_bytes=num_bytes
        )

    def generated(self, event: events.Generated, now: float) -> None:
        session = self.sessions.get(event.key)
        if session is None:
            return
        report = None
        if event.finished is not None:
            record = session.steps[session.generate_step]
            computed = event.prompt_tokens - event.cached_tokens - session.num_computed
            record.finish(
                self._unix_s(now),
                matched=max(0, event.cached_tokens - session.received),
                computed=max(0, computed),
                received=session.received,
                generated=event.completion_tokens,
            )
            report = record.report()
        self._outbox.append(
            ipc.Token(
                event.key,
                session.generate_step,
                event.token,
                finish=event.finished or "",
                prompt_tokens=event.prompt_tokens,
                cached_tokens=event.cached_tokens,
                logprobs=event.logprobs,
                report=report,
                count=event.repeated,
            )
        )

    # --- the cache -----------------------------------------------------------------------------

    def blocks_changed(self, event: events.BlocksChanged) -> None:
        self.block_sequence += 1
        changes = BlockEvents(self.block_sequence, event.evicted, event.stored)
        self._outbox.append(ipc.Blocks(changes))
