"""A device for tests: takes steps at once and does them as late as it may, in order.

Around any runner. What a step reads of its sequences is what they were when it was launched.
"""

from array import array
from dataclasses import dataclass, field, replace

from mserve.runtime.engine.batching import (
    Batch,
    Chunk,
    LaunchedStep,
    LayerHook,
    ModelRunner,
    StepOutput,
)
from mserve.runtime.engine.sequence import Sequence


@dataclass(slots=True, eq=False)
class LazyStep:
    """`batch` is as it was at the launch."""

    runner: "LazyRunner"
    batch: Batch
    before: "LazyStep | None"
    output: StepOutput | None = field(default=None)

    def result(self) -> StepOutput:
        while self.output is None:
            self.runner.do_next()
        return self.output


class LazyRunner:
    """A `LaunchingRunner`. Whatever else touches pages has to `catch_up` first."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._queue: list[LazyStep] = []
        self.num_ahead = 0  # steps that were launched before the one before was done

    def launch(self, batch: Batch, before: LaunchedStep | None) -> LazyStep:
        assert before is None or isinstance(before, LazyStep), "a step of another runner"
        step = LazyStep(self, _as_now(batch), before)
        self.num_ahead += bool(self._queue)
        self._queue.append(step)
        return step

    def run(self, batch: Batch, on_layer: LayerHook | None = None) -> StepOutput:
        self.catch_up()
        return self._runner.run(batch, on_layer)

    def catch_up(self) -> None:
        while self._queue:
            self.do_next()

    def do_next(self) -> None:
        step = self._queue.pop(0)
        sampled = [] if step.before is None else step.before.result().tokens
        assert sampled is not None, "tokens of a step that has none"
        for sequence in (*(chunk.sequence for chunk in step.batch.prefill), *step.batch.decode):
            known = [token if token >= 0 else sampled[-1 - token] for token in sequence.tokens]
            sequence.tokens = array("i", known)
        step.output, step.before = self._runner.run(step.batch), None


def _as_now(batch: Batch) -> Batch:
    """The batch, of copies of its sequences."""

    def copy(sequence: Sequence) -> Sequence:
        return replace(sequence, tokens=sequence.tokens[:], pages=sequence.pages[:])

    chunks = [Chunk(copy(c.sequence), c.begin, c.end, c.sample) for c in batch.prefill]
    return replace(batch, prefill=tuple(chunks), decode=tuple(map(copy, batch.decode)))
