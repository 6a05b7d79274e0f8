"""Carries out one request: decides on a plan, sends every worker its part, relays the tokens.

All calls of a stage go out at once; what waits for another worker waits there. When a worker is
lost or has no room, the request is planned anew without it, with prompt and tokens streamed so far,
and the same stream goes on. Cancelling the task cancels every step. Knows neither HTTP nor text.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager

from mserve.compiler.observe import Decider
from mserve.compiler.plan import COMPUTING_STEPS, RemoteSend
from mserve.compiler.protocol import AnswerEvent, Effect
from mserve.runtime.clock import Clock
from mserve.runtime.cluster.membership import WorkerInfo
from mserve.runtime.errors import Gone, NoRoom, RequestError, Unavailable, Unreachable, WorkerLost
from mserve.runtime.messages import (
    Finish,
    Frame,
    FrameKind,
    PlanCall,
    StepReport,
    decode_finish,
    decode_problem,
    decode_step_report,
)
from mserve.runtime.router.answer import Answer, Attempt, Sink
from mserve.runtime.router.client import WorkerClient
from mserve.runtime.router.dispatch import Stage, plan_calls, split_plan
from mserve.runtime.router.failures import StepFailed, culprit, root_cause
from mserve.runtime.router.fleet import Fleet
from mserve.runtime.router.history import History
from mserve.runtime.router.placement import Placed, Placement
from mserve.runtime.router.plans import AttemptRecord, PlanLog, PlanRecord
from mserve.runtime.router.requests import GenerationRequest
from mserve.runtime.router.reservations import Reservations

log = logging.getLogger(__name__)


class Executor:
    """Executes requests under one strategy. `new_id` gives ids that sort by age."""

    def __init__(
        self,
        placement: Placement,
        strategy: Decider,
        fleet: Fleet,
        client: WorkerClient,
        reservations: Reservations,
        history: History,
        plans: PlanLog,
        *,
        clock: Clock,
        new_id: Callable[[], str],
        on_end: Callable[[PlanRecord], None] = lambda record: None,
    ) -> None:
        self._placement = placement
        self._strategy = strategy
        self._fleet = fleet
        self._client = client
        self._reservations = reservations
        self._history = history
        self._plans = plans
        self._clock = clock
        self._new_id = new_id
        self._on_end = on_end
        self._copies: set[asyncio.Task[None]] = set()

    async def execute(self, request: GenerationRequest, sink: Sink) -> None:
        """Answers `request` into `sink`; returns when the plan is over.

        Raises a RequestError: the worker's own where trying again is no use, Unavailable if no
        route is possible within `limits.timeout`, else that of the last attempt.
        """
        answer = self._begin(request, sink)
        with self._recorded(answer):
            while answer.finish is None:
                placed = await self._place(answer)
                try:
                    await self._carry_out(answer, placed)
                except StepFailed as failure:
                    await self._recover(answer, placed, failure)

    async def close(self) -> None:
        """Cancels copies under way."""
        for task in self._copies:
            task.cancel()
        await asyncio.gather(*self._copies, return_exceptions=True)

    def _begin(self, request: GenerationRequest, sink: Sink) -> Answer:
        tenant = str(request.facts.get("tenant", ""))
        record = PlanRecord(
            self._new_id(), request.id, self._clock.time(), request.num_tokens, tenant
        )
        self._plans.add(record)
        return Answer(request, sink, record, self._deadline())

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._strategy.limits.timeout_s

    def _wanted_in_s(self, answer: Answer) -> float | None:
        """What `slo { ttft }` leaves until the next token; one that a reader waits for is urgent."""
        ttft_s = self._strategy.slo.ttft_s
        if ttft_s is None:
            return None
        waited_s = self._clock.time() - answer.record.started_s
        return 0.0 if answer.generated else max(0.0, ttft_s - waited_s)

    @contextmanager
    def _recorded(self, answer: Answer) -> Iterator[None]:
        """Whatever happens, the record says how it ended."""
        record = answer.record
        try:
            yield
        except asyncio.CancelledError:
            if record.is_open:
                record.advance(AnswerEvent.CANCEL)
            raise
        except Exception as error:
            if record.is_open:
                record.advance(AnswerEvent.GIVE_UP)
                record.error = str(error)
            raise
        finally:
            record.finish = answer.finish
            record.ended_s = self._clock.time()
            self._on_end(record)

    async def _place(self, answer: Answer) -> Placed:
        """A plan, waiting for one to become possible, unless nobody is there who could make it so. Who
        was left out comes back if none is."""
        try:
            async with asyncio.timeout_at(answer.deadline):
                while (placed := await self._placement.place(answer.query())) is None:
                    answer.excluded.clear()
                    if any(self._fleet.is_deserted(pool.name) for pool in self._strategy.pools):
                        raise TimeoutError
                    await self._fleet.changed()
        except TimeoutError:
            raise self._no_route(answer.cause) from answer.cause
        route = placed.decision.plan.route
        answer.sink.placed(answer.record.id, route, self._strategy.version)
        return placed

    def _no_route(self, cause: RequestError | None) -> RequestError:
        """Why no plan was possible in time: who is missing, else what the last attempt met."""
        pools = [pool.name for pool in self._strategy.pools]
        missing = [f"'{pool}'" for pool in pools if pool not in self._fleet.snapshot.pools]
        if cause is not None and not missing:
            return cause
        who = f"no live worker in pool {' and '.join(missing)}" if missing else "too few workers"
        detail = f"No route of the strategy was possible in time: there is {who}."
        retry_after_s = 5.0 if any(map(self._fleet.is_deserted, pools)) else 1.0
        return Unavailable(
            f"{detail} Before: {cause}" if cause else detail, retry_after_s=retry_after_s
        )

    async def _carry_out(self, answer: Answer, placed: Placed) -> None:
        """One attempt: the stages that make the answer, in order, then copies for later."""
        answer.record.advance(AnswerEvent.PLACED)
        record = AttemptRecord(self._clock.time(), placed.decision, placed.cached)
        answer.record.begin(record)
        stages = split_plan(placed.decision.plan)
        with self._reservations.reserve(placed.works) as reservation:
            attempt = Attempt(answer, placed, record, reservation)
            try:
                for stage in stages.foreground:
                    attempt.is_last_stage = stage is stages.foreground[-1]
                    await self._run_until_answered(attempt, stage)
                    if answer.finish is not None:
                        break
            finally:
                if answer.finish is None or stages.background is None:
                    record.cancel_open(self._clock.time())
        if stages.background is not None:
            self._copy(attempt, stages.background)

    async def _run_until_answered(self, attempt: Attempt, stage: Stage) -> None:
        """A call that fails after the answer's end takes nothing from it, but ends the others: one
        of them may wait for it."""
        try:
            await self._run(attempt, stage)
        except StepFailed as failure:
            if attempt.answer.finish is None:
                raise
            log.info("plan %s failed after its answer: %s", attempt.answer.record.id, failure)

    async def _run(self, attempt: Attempt, stage: Stage) -> None:
        """One stage: every call in a task of its own, the generating one in this."""
        answer = attempt.answer
        attempt.stage, attempt.stage_finish = stage, None
        attempt.num_before = answer.num_generated
        *others, last = plan_calls(
            stage, answer.outgoing(self._wanted_in_s(answer)), attempt.placed.workers
        )
        async with self._guarded(attempt), asyncio.TaskGroup() as group:
            for worker, call in others:
                group.create_task(self._follow(attempt, worker, call))
            await self._follow(attempt, *last)
        if stage.generate is not None and attempt.stage_finish is None:
            raise StepFailed(last[0], WorkerLost(f"{last[0].name} ended before its answer did"))
        answer.deadline = self._deadline()

    @asynccontextmanager
    async def _guarded(self, attempt: Attempt) -> AsyncIterator[None]:
        """Ends the body when a worker is lost or no token comes in time, with one plain error."""
        scope = attempt.scope = asyncio.timeout_at(attempt.answer.deadline)
        try:
            async with scope:
                with self._fleet.watch(list(attempt.placed.workers.values()), attempt.lose):
                    yield
        except TimeoutError:
            if attempt.answer.finish is None:
                raise self._timed_out(attempt) from None
        except ExceptionGroup as group:
            failures, bugs = group.split(StepFailed)
            if failures is None or bugs is not None:
                raise
            raise root_cause(failures) from None

    def _timed_out(self, attempt: Attempt) -> Exception:
        if attempt.lost is not None:
            name = attempt.lost.name
            error = WorkerLost(f"Worker {name} has not been heard from.")
            return StepFailed(attempt.lost, error, is_connection=True)
        return Unavailable(
            f"No token came within {self._strategy.limits.timeout_s:g} s.", retry_after_s=1.0
        )

    async def _follow(self, attempt: Attempt, worker: WorkerInfo, call: PlanCall) -> None:
        """Reads one worker's answer to its end."""
        try:
            async with aclosing(self._client.execute(worker, call)) as frames:
                async for frame in frames:
                    if frame.kind is FrameKind.TOKENS:
                        await self._relay(attempt, worker, frame)
                    else:
                        await self._take(attempt, worker, frame)
        except RequestError as error:
            failure = StepFailed(worker, error, is_connection=isinstance(error, WorkerLost))
            self._fail(attempt, failure)
        except StepFailed as failure:
            self._fail(attempt, failure)

    def _fail(self, attempt: Attempt, failure: StepFailed) -> None:
        attempt.record.fail(failure.worker.name, failure.step, str(failure), self._clock.time())
        raise failure

    async def _relay(self, attempt: Attempt, worker: WorkerInfo, frame: Frame) -> None:
        """Passes tokens on; frames of calls that are closed are not read any more."""
        answer = attempt.answer
        if Effect.EMIT not in answer.record.advance(AnswerEvent.TOKEN):
            return
        if frame.tokens:
            if answer.record.first_token_s is None:
                answer.record.first_token_s = self._clock.time()
            answer.generated += frame.tokens
            attempt.streaming(worker.name, frame.num_tokens)
            attempt.reservation.generated(worker.name, frame.num_tokens)
        if frame.payload:
            answer.last_payload = frame.payload
            await answer.sink.tokens(frame.payload)

    async def _take(self, attempt: Attempt, worker: WorkerInfo, frame: Frame) -> None:
        if frame.kind is FrameKind.STEP:
            self._note(attempt, worker, decode_step_report(frame.payload))
        elif frame.kind is FrameKind.FINISH:
            await self._finish(attempt, worker, decode_finish(frame.payload))
        else:
            problem = decode_problem(frame.payload)
            raise StepFailed(worker, problem.error(), step=problem.step)

    def _note(self, attempt: Attempt, worker: WorkerInfo, report: StepReport) -> None:
        step = attempt.record.note(report).step
        if report.state == "done" and isinstance(step, RemoteSend):
            attempt.reservation.prefilled(worker.name)
        computes = isinstance(step, COMPUTING_STEPS) and not step.uses
        if report.state == "running" and computes:
            self._history.waited(
                worker.name, max(0.0, self._clock.time() - attempt.record.started_s)
            )

    async def _finish(self, attempt: Attempt, worker: WorkerInfo, finish: Finish) -> None:
        """The end of a generation: of the answer, unless the next stage goes on with it."""
        attempt.stage_finish = finish
        answer = attempt.answer
        num_prompt = answer.request.num_tokens
        attempt.record.count(worker.name, finish, num_prompt, attempt.stage.steps)
        if not attempt.is_last_stage and finish.reason == "length" and answer.remaining > 0:
            answer.record.advance(AnswerEvent.HANDOVER)
            return
        answer.record.advance(AnswerEvent.FINISH)
        num_output = attempt.num_before + finish.completion_tokens
        delivered = answer.record.delivered
        answer.finish = Finish(finish.reason, num_prompt, num_output, delivered)
        self._history.answered(
            worker.name,
            answer.finish.prompt_tokens,
            answer.finish.cached_tokens,
            answer.finish.completion_tokens,
        )
        await answer.sink.finish(answer.finish)

    async def _recover(self, answer: Answer, placed: Placed, failure: StepFailed) -> None:
        """Prepares the next attempt, or raises what makes one useless."""
        error = failure.error
        if not (error.retryable or isinstance(error, Gone)):
            raise error
        if answer.ending is not None:  # only the worker's word for it was lost
            answer.record.advance(AnswerEvent.FINISH)
            num_prompt = answer.request.num_tokens
            delivered = answer.record.delivered
            answer.finish = Finish(answer.ending, num_prompt, answer.num_generated, delivered)
            await answer.sink.finish(answer.finish)
            return
        if failure.is_connection or isinstance(error, Unavailable):
            self._fleet.report_lost(failure.worker)
        answer.excluded.add(culprit(placed.decision.plan, failure))
        answer.cause = error
        if not isinstance(error, NoRoom | Unreachable):  # waiting is bounded by the deadline alone
            answer.num_retries += 1
        if answer.num_retries > self._strategy.limits.retries:
            raise error
        answer.record.advance(AnswerEvent.LOST)
        if answer.num_generated > answer.num_at_renewal:  # else those that fail go on for ever
            answer.num_at_renewal, answer.deadline = answer.num_generated, self._deadline()
        log.warning("plan %s is made anew: %s", answer.record.id, error)

    def _copy(self, attempt: Attempt, stage: Stage) -> None:
        """Runs a background stage on its own: its failure is only noted."""

        async def copy() -> None:
            try:
                await self._run(attempt, stage)
            except (StepFailed, RequestError) as error:
                log.info("plan %s: no copy: %s", attempt.answer.record.id, error)
            finally:
                attempt.record.cancel_open(self._clock.time())

        task = asyncio.create_task(copy())
        self._copies.add(task)
        task.add_done_callback(self._copies.discard)
