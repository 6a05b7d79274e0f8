"""Finds out by requests to its router what an idle cluster's work takes.

Prompts of growing length alone, each once more when it is cached, and beside an answer, whose pause is
the step; answers side by side in growing numbers. Who did what, plans say. Owns what is sent; the costs
are made in profile_fit.py.
"""

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean

import msgspec
from msgspec import Struct

from mserve.runtime.clock import Clock
from mserve.runtime.cluster.view import ClusterView
from mserve.runtime.errors import ConfigError
from mserve.runtime.simulator.profile import (
    DecodePoint,
    MixedPoint,
    Profile,
    PromptPoint,
)
from mserve.runtime.simulator.profile_fit import fit_costs
from mserve.runtime.simulator.reported import limits_of, link_of, mean_cost, usable
from mserve.runtime.simulator.timed_answer import TimedAnswer
from mserve.runtime.traffic.answers import WholeAnswer
from mserve.runtime.traffic.arrivals import Arrival, num_blocks
from mserve.runtime.traffic.client import Client
from mserve.runtime.traffic.model import COMPLETIONS_PATH, ServedModel

LENGTHS = (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
BATCHES = (1, 2, 4, 8, 16, 32)
MAX_CONCURRENCY = 64
REPEATS = 3
WARM_TRIES = 2  # for each worker: until one that has the prompt answers
ALONE_TOKENS = 12  # of an answer that is alone
TOGETHER_TOKENS = 48
MOST_BESIDE = 1024  # tokens of a prompt that is computed beside answers
SHORT_PROMPT = 16
MIN_STEPS = 8  # fewer say nothing

Show = Callable[[str], None]


class _Step(Struct):
    worker: str
    op: str


class _Attempt(Struct):
    steps: list[_Step]


class _Plan(Struct):
    attempts: list[_Attempt]


class Probes:
    """One cluster's measurement. Raises ConfigError from `run` where it cannot be measured."""

    def __init__(self, client: Client, clock: Clock, model: ServedModel, view: ClusterView) -> None:
        self._client = client
        self._clock = clock
        self._model = model
        self._view = view
        self._workers = usable(view)
        self._seed = secrets.randbits(64)
        self._num_prompts = 0
        self._prompts: list[PromptPoint] = []
        self._mixed: list[MixedPoint] = []
        self._decodes: list[DecodePoint] = []

    async def run(self, show: Show) -> Profile:
        """Measures; `show` is told what comes next."""
        show("warming up")
        await self._alone(self._arrival(SHORT_PROMPT, ALONE_TOKENS))
        generating = self._pool_of((await self._alone(self._fresh(SHORT_PROMPT)))[1])
        self._prompts.clear()
        self._decodes.clear()
        for length in self._lengths():
            show(f"prompts of {length:,} tokens")
            for _ in range(REPEATS):
                await self._cold_and_warm(length)
        show("prompts beside answers")
        for _ in range(REPEATS):
            await self._beside(generating)
        for batch in self._batches(generating):
            show(f"{batch} answers at once on each worker")
            await self._together(batch * generating)
        return self._profile()

    # --- what is asked -------------------------------------------------------------------------

    async def _cold_and_warm(self, length: int) -> None:
        """The same prompt until a worker that has it cached answers."""
        arrival = self._fresh(length)
        for _ in range(1 + WARM_TRIES * len(self._workers)):
            point, _ = await self._alone(arrival)
            if point.cached > length // 2:  # not a token that happens to be the same
                return

    async def _alone(self, arrival: Arrival) -> tuple[PromptPoint, str]:
        """The point, and the worker that answered; keeps what it says about both kinds of step."""
        answer, began_s = await self._ask(arrival)
        steps = await self._steps(answer)
        assert answer.first_s is not None, "an answer that did not fail has tokens"
        num_sends = sum(step.op == "remote_send" for step in steps)
        cached = answer.usage.cached if answer.usage else 0
        point = PromptPoint(arrival.num_prompt, cached, num_sends, answer.first_s - began_s)
        self._prompts.append(point)
        self._keep_steps([(answer, arrival)], answer.first_s, answer.ending_s)
        return point, _generating(steps)

    async def _beside(self, num_streams: int) -> None:
        """While answers are under way, prompts that fit into one step, one after the other."""
        most = min(self._workers[0].chunk_tokens or MOST_BESIDE, MOST_BESIDE)
        lengths = [length for length in self._lengths() if length <= most]
        beside = [self._arrival(SHORT_PROMPT, TOGETHER_TOKENS) for _ in range(num_streams)]
        streams = [TimedAnswer() for _ in beside]
        asked: list[tuple[TimedAnswer, int]] = []
        async with asyncio.TaskGroup() as group:
            for stream, arrival in zip(streams, beside, strict=True):
                group.create_task(self._send(arrival, stream))
            for stream in streams:
                await stream.begun.wait()
            for length in lengths:
                asked.append((TimedAnswer(), length))
                await self._send(self._arrival(length, 1), asked[-1][0])
        await self._keep_beside(streams, asked)

    async def _keep_beside(
        self, streams: Sequence[TimedAnswer], asked: Sequence[tuple[TimedAnswer, int]]
    ) -> None:
        """Those that one worker computed, with the answers that it had under way."""
        by_worker: dict[str, list[TimedAnswer]] = defaultdict(list)
        for stream in streams:
            by_worker[_generating(await self._steps(stream))].append(stream)
        for answer, length in asked:
            steps = await self._steps(answer)
            if len(steps) == 1:
                self._keep_mixed(answer, length, by_worker[_generating(steps)])

    def _keep_mixed(self, answer: TimedAnswer, length: int, streams: Sequence[TimedAnswer]) -> None:
        pauses = [pause for s in streams if (pause := s.pause_before(answer.ending_s)) is not None]
        if pauses:
            context = SHORT_PROMPT + TOGETHER_TOKENS / 2
            self._mixed.append(MixedPoint(length, len(pauses), context, fmean(pauses)))

    async def _together(self, concurrency: int) -> None:
        """Short prompts, so that the steps that count are those of answers only."""
        arrivals = [self._arrival(SHORT_PROMPT, TOGETHER_TOKENS) for _ in range(concurrency)]
        asked = await asyncio.gather(*[self._ask(arrival) for arrival in arrivals])
        by_worker: dict[str, list[tuple[TimedAnswer, Arrival]]] = defaultdict(list)
        for (answer, _), arrival in zip(asked, arrivals, strict=True):
            by_worker[_generating(await self._steps(answer))].append((answer, arrival))
        for group in by_worker.values():
            begin_s = max(answer.first_s or 0.0 for answer, _ in group)
            self._keep_steps(group, begin_s, min(answer.ending_s for answer, _ in group))

    def _keep_steps(
        self, group: Sequence[tuple[TimedAnswer, Arrival]], begin_s: float, end_s: float
    ) -> None:
        """Between the times at which all of a worker's answers had begun and the first one ended."""
        answer, arrival = group[0]
        times_s = answer.steps_within(begin_s, end_s)
        num_steps = round((len(times_s) - 1) * answer.tokens_each)
        if num_steps < min(MIN_STEPS, arrival.num_output - 2):
            return
        context = arrival.num_prompt + answer.num_output / 2
        step_s = (times_s[-1] - times_s[0]) / num_steps
        self._decodes.append(DecodePoint(len(group), context, num_steps, step_s))

    async def _ask(self, arrival: Arrival) -> tuple[TimedAnswer, float]:
        """The answer, and when it was asked for. Raises ConfigError."""
        answer, began_s = TimedAnswer(), self._clock.now()
        await self._send(arrival, answer)
        return answer, began_s

    async def _send(self, arrival: Arrival, answer: TimedAnswer) -> None:
        """Returns at the answer's end. Raises ConfigError."""
        body = self._model.request(arrival, self._seed)
        try:
            await self._client.post(COMPLETIONS_PATH, body, answer)
        except OSError as error:
            raise ConfigError(f"The router broke off an answer: {error}.") from None
        if (failure := answer.ended()) is not None:
            raise ConfigError(
                f"A request of {arrival.num_prompt} tokens failed, {failure[0]}: {failure[1]}"
            )

    async def _steps(self, answer: TimedAnswer) -> list[_Step]:
        """Of its plan. Raises ConfigError."""
        found = WholeAnswer()
        await self._client.get(f"/v1/plans/{answer.plan_id}", found)
        try:
            return msgspec.json.decode(found.body, type=_Plan).attempts[-1].steps
        except (msgspec.DecodeError, LookupError):
            raise ConfigError(
                f"The router does not tell plans (status {found.status}): {found.problem}"
            ) from None

    # --- how much ------------------------------------------------------------------------------

    def _lengths(self) -> Iterator[int]:
        """That fit: into the model's context, and twice into a worker's KV."""
        worker = self._workers[0]
        most = min(worker.max_model_len - ALONE_TOKENS, worker.num_pages * worker.page_size // 2)
        return (length for length in LENGTHS if length <= max(most, LENGTHS[0]))

    def _batches(self, num_workers: int) -> Iterator[int]:
        worker = self._workers[0]
        pages_each = -(-(SHORT_PROMPT + TOGETHER_TOKENS) // worker.page_size) + 1
        room = worker.num_pages // pages_each
        most = min(room, worker.max_running or room, max(1, MAX_CONCURRENCY // num_workers))
        return (batch for batch in BATCHES if batch <= max(most, 1))

    def _pool_of(self, name: str) -> int:
        """How many workers are in the pool of the one that answers."""
        pools = {worker.name: worker.pool for worker in self._workers}
        return max(1, sum(pool == pools.get(name) for pool in pools.values()))

    def _fresh(self, length: int) -> Arrival:
        return self._arrival(length, ALONE_TOKENS)

    def _arrival(self, num_prompt: int, num_output: int) -> Arrival:
        """A prompt that nobody has seen."""
        self._num_prompts += 1
        size = self._workers[0].block_tokens
        count = num_blocks(num_prompt, size)
        blocks = tuple((self._num_prompts << 32) + index for index in range(count))
        return Arrival(0.0, num_prompt, num_output, blocks, size)

    # --- what came of it -----------------------------------------------------------------------

    def _profile(self) -> Profile:
        worker, reported = self._workers[0], mean_cost(self._workers)
        if not self._decodes:
            raise ConfigError("Answers ended too early to time their steps.")
        limits = limits_of(worker)
        fit = fit_costs(self._prompts, self._mixed, self._decodes, reported, limits.chunk_tokens)
        return Profile(
            model=self._view.model,
            strategy=self._view.strategy,
            gpus=worker.gpus,
            steps=fit.steps,
            request=fit.request,
            link=link_of(reported, worker.num_layers),
            limits=limits,
            reported=reported,
            prompt_error=fit.prompt_error,
            decode_error=fit.decode_error,
            prompts=tuple(self._prompts),
            mixed=tuple(self._mixed),
            decodes=tuple(self._decodes),
            notes=tuple(self._notes()),
        )

    def _notes(self) -> Iterator[str]:
        """What one must know to believe the figures, in sentences."""
        busy = [worker.name for worker in self._workers if worker.running or worker.waiting]
        if busy:
            yield f"There was other work on {', '.join(busy)}: an idle cluster is better measured."
        if any(point.num_sends for point in self._prompts):
            yield (
                "Prompts were computed and answered on different workers: what transfers take is what"
                " the workers say. A strategy that sends no KV, as data_parallel, shows more."
            )
        if not self._mixed:
            yield (
                "No prompt was computed beside an answer, so what is fixed in a step that computes"
                " prompts is what the workers say."
            )
        if not any(point.cached > 1 for point in self._prompts):
            yield (
                "No prompt was found in a cache, so what a token costs outside of the engine counts"
                " as the engine's."
            )


def _generating(steps: Sequence[_Step]) -> str:
    """The worker that answers."""
    return [step.worker for step in steps if step.op == "start_generate"][-1]
