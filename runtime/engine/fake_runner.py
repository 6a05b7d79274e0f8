"""`ModelRunner` and `KvStore` in memory: no model, but the whole of KV's bookkeeping checked; and a
worker made of it, for tests of the engine and of what stands around it.

The "KV" of a position is its token id and its position, in every layer. What a step attends to is
read through the sequence's pages and must be exactly its tokens; the next token is a hash of what
was read. So a foreign, stale or missing page fails at once, and whatever path a sequence took
(cache, transfer, preemption), its answer must be that of a run alone.
"""

from array import array
from typing import TypeAlias

from xxhash import xxh3_64_intdigest

from mserve.runtime.engine.batching import Batch, LayerHook, Pages, StepOutput
from mserve.runtime.engine.config import EngineConfig
from mserve.runtime.engine.engine import Engine
from mserve.runtime.engine.events import EngineEvent, Generated
from mserve.runtime.engine.moves import Moves
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.messages import PlanCall, Sampling, StartGenerateCall, StepCall, pack_tokens

EMPTY = -1
Column: TypeAlias = "array[int]"  # one number per slot


class FakeRunner:
    """Wire form of (layer, [begin, end)): int32 [2 (token, position), end - begin]."""

    bytes_per_token_layer = 8

    def __init__(
        self,
        num_pages: int,
        page_size: int,
        *,
        num_layers: int = 2,
        vocab_size: int = 256,
        host_pages: int = 0,
    ) -> None:
        self.num_layers = num_layers
        self.page_size = page_size
        self.vocab_size = vocab_size
        self._host: list[list[Column]] = [[] for _ in range(host_pages)]
        num_slots = num_pages * page_size
        self._tokens = [array("i", [EMPTY]) * num_slots for _ in range(num_layers)]
        self._positions = [array("i", [EMPTY]) * num_slots for _ in range(num_layers)]

    def run(self, batch: Batch, on_layer: LayerHook | None = None) -> StepOutput:
        """One step; raises AssertionError where a sequence would attend to wrong KV."""
        self.move(batch.moves)
        return self.compute(batch, on_layer)

    def move(self, moves: Moves) -> None:
        """What a step does first."""
        for page, host_page in moves.saves:
            self._host[host_page] = [column[self._slice(page)] for column in self._columns]
        for host_page, page in moves.restores:
            for column, saved in zip(self._columns, self._host[host_page], strict=True):
                column[self._slice(page)] = saved
        for copy in moves.copies:
            source, target = (
                self._slice(p, copy.num_positions) for p in (copy.source, copy.target)
            )
            for column in self._columns:
                column[target] = column[source]

    def compute(self, batch: Batch, on_layer: LayerHook | None = None) -> StepOutput:
        """What it does then."""
        spans = [(chunk.sequence, chunk.begin, chunk.end) for chunk in batch.prefill]
        spans += [(s, s.num_computed, s.num_computed + 1) for s in batch.decode]
        for layer in range(self.num_layers):
            for sequence, begin, end in spans:
                self._compute(sequence, layer, begin, end)
            if on_layer is not None:
                on_layer(layer)
        ends = {id(sequence): end for sequence, _, end in spans}
        return StepOutput(tokens=[self._next(s, ends[id(s)]) for s in batch.sampled])

    def read(self, pages: Pages, layer: int, begin: int, end: int, out: memoryview) -> None:
        slots = self._slots(pages, begin, end)
        rows = [self._tokens[layer][slot] for slot in slots]
        rows += [self._positions[layer][slot] for slot in slots]
        out[:] = array("i", rows).tobytes()

    def write(self, pages: Pages, layer: int, begin: int, end: int, data: memoryview) -> None:
        rows = array("i", bytes(data))
        num_tokens = end - begin
        for index, slot in enumerate(self._slots(pages, begin, end)):
            self._tokens[layer][slot] = rows[index]
            self._positions[layer][slot] = rows[num_tokens + index]

    def next_token(self, tokens: list[int]) -> int:
        """The token that follows `tokens`."""
        return xxh3_64_intdigest(array("i", tokens).tobytes()) % self.vocab_size

    def _compute(self, sequence: Sequence, layer: int, begin: int, end: int) -> None:
        for position, slot in enumerate(self._slots(sequence.pages, begin, end), begin):
            self._tokens[layer][slot] = sequence.tokens[position]
            self._positions[layer][slot] = position
        self._check(sequence, layer, end)

    def _check(self, sequence: Sequence, layer: int, end: int) -> None:
        """What attention reads at position end - 1 is the sequence's own prefix."""
        slots = self._slots(sequence.pages, 0, end)
        tokens = [self._tokens[layer][slot] for slot in slots]
        assert tokens == list(sequence.tokens[:end]), f"{sequence.key} reads foreign KV"
        positions = [self._positions[layer][slot] for slot in slots]
        assert positions == list(range(end)), f"{sequence.key} reads KV of other positions"

    def _next(self, sequence: Sequence, end: int) -> int:
        slots = self._slots(sequence.pages, 0, end)
        return self.next_token([self._tokens[-1][slot] for slot in slots])

    @property
    def _columns(self) -> list[Column]:
        return self._tokens + self._positions

    def _slice(self, page: int, num_positions: int | None = None) -> slice:
        begin = page * self.page_size
        return slice(begin, begin + (self.page_size if num_positions is None else num_positions))

    def _slots(self, pages: Pages, begin: int, end: int) -> list[int]:
        size = self.page_size
        return [pages[at // size] * size + at % size for at in range(begin, end)]


class FakeWorker:
    """An engine and a fake runner in the plain loop. Its time counts steps."""

    def __init__(self, config: EngineConfig) -> None:
        self.engine = Engine(config)
        self.runner = FakeRunner(config.num_pages, config.page_size, host_pages=config.host_pages)
        self.batches: list[Batch] = []
        self.events: list[EngineEvent] = []

    @property
    def now(self) -> float:
        return float(len(self.batches))

    def submit(self, plan_id: str, tokens: list[int], *steps: StepCall, salt: bytes = b"") -> str:
        """Returns the key; raises what `Engine.submit` raises."""
        call = PlanCall(plan_id=plan_id, tokens=pack_tokens(tokens), steps=steps, salt=salt)
        self.engine.submit(call, self.now)
        return call.key

    def generate(self, plan_id: str, tokens: list[int], max_tokens: int = 4) -> str:
        sampling = Sampling(max_tokens=max_tokens)
        return self.submit(plan_id, tokens, StartGenerateCall("generate", 0, sampling))

    def step(self) -> Batch | None:
        """One turn of the loop; None if there was nothing to compute."""
        batch = self.engine.plan(self.now)
        if batch is not None:
            self.batches.append(batch)
            self.engine.commit(batch, self.runner.run(batch), self.now)
        self.events += self.engine.drain()
        return batch

    def run(self) -> None:
        """Until there is nothing to compute; what waits for a transfer stays."""
        while self.step() is not None:
            pass

    def finish(self) -> None:
        """Runs to the end, where nobody may be left, and no page."""
        self.run()
        self.engine.check_integrity()
        assert self.engine.is_idle, "a sequence is left"
        assert self.engine.stats().kv_used_tokens == 0, "a page is left"

    def answer(self, key: str) -> list[int]:
        return [e.token for e in self.events if isinstance(e, Generated) and e.key == key]

    def expected_answer(self, tokens: list[int], max_tokens: int) -> list[int]:
        """That of a run without cache, batch, transfer or preemption."""
        sequence = list(tokens)
        for _ in range(max_tokens):
            sequence.append(self.runner.next_token(sequence))
        return sequence[len(tokens) :]
