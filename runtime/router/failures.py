"""A step that failed: what the executor knows about it, and whom to leave out of the next plan."""

from mserve.compiler.plan import (
    Plan,
    PrepRecv,
    RemoteSend,
    StartGenerate,
    StepName,
    WorkerName,
)
from mserve.runtime.cluster.membership import WorkerInfo
from mserve.runtime.errors import NoRoom, RequestError, WorkerLost


class StepFailed(Exception):
    """A step of a plan could not be done. `is_connection`: we lost `worker` ourselves; otherwise
    the worker says so, perhaps about its peer."""

    def __init__(
        self,
        worker: WorkerInfo,
        error: RequestError,
        *,
        step: StepName = "",
        is_connection: bool = False,
    ) -> None:
        super().__init__(str(error))
        self.worker = worker
        self.error = error
        self.step = step
        self.is_connection = is_connection


def root_cause(group: ExceptionGroup[StepFailed]) -> StepFailed:
    """Of failures at once, the lost connection explains the others."""
    failures = [error for error in group.exceptions if isinstance(error, StepFailed)]
    return next((failure for failure in failures if failure.is_connection), failures[0])


def culprit(plan: Plan, failure: StepFailed) -> WorkerName:
    """Who to leave out: a worker that speaks of a loss, or of room it was not granted, means its
    peer."""
    speaks_of_peer = isinstance(failure.error, WorkerLost) or (
        isinstance(failure.error, NoRoom)
        and any(isinstance(each, RemoteSend) and each.id == failure.step for each in plan.steps)
    )
    peer = other_end(plan, failure.step) if speaks_of_peer and not failure.is_connection else None
    return peer or failure.worker.name


def other_end(plan: Plan, step_id: StepName) -> WorkerName | None:
    """The worker at the other end of a step's transfer: who receives what it sends, or who sends
    what it waits for. None if it has no transfer or several others."""
    step = next((step for step in plan.steps if step.id == step_id), None)
    if step is None:
        return None
    holders = {s.ticket: s.worker for s in plan.steps if isinstance(s, PrepRecv)}
    senders = {t: s.worker for s in plan.steps if isinstance(s, RemoteSend) for t in s.to}
    match step:
        case RemoteSend():
            others = {holders[t] for t in step.to} | {senders[t] for t in step.uses}
        case StartGenerate():
            others = {senders[ticket] for ticket in step.uses}
        case _:
            others = {senders[step.ticket]}
    others.discard(step.worker)
    return others.pop() if len(others) == 1 else None
