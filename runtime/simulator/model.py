"""A model of hashes, with KV memory: `ModelRunner` and `KvStore` that notice every misplaced page.

The KV of a position is a hash of all tokens up to it, another one in each layer. What a step attends
to is read through the sequence's pages and must be exactly that; the next token is a hash of what was
read. So whatever way an answer took (cache, transfers, other workers), it is that of `reference`.
"""

from array import array
from collections.abc import Sequence as Tokens

from xxhash import xxh3_64_intdigest

from mserve.runtime.engine.batching import Batch, LayerHook, Pages, StepOutput
from mserve.runtime.engine.moves import Moves
from mserve.runtime.engine.sequence import Sequence

CELL_BYTES = 8
NUM_LAYERS = 2
VOCABULARY = 97
_MASK = (1 << 64) - 1
_FACTOR = 6364136223846793005  # of Knuth's MMIX generator


class HashedModel:
    """Wire form of (layer, [begin, end)): uint64 [end - begin]."""

    num_layers = NUM_LAYERS
    bytes_per_token_layer = CELL_BYTES

    def __init__(self, num_pages: int, page_size: int, *, host_pages: int = 0) -> None:
        self._page_bytes = page_size * CELL_BYTES
        size = num_pages * self._page_bytes
        self._cells = [memoryview(bytearray(size)) for _ in range(NUM_LAYERS)]
        self._host: list[list[bytes]] = [[] for _ in range(host_pages)]
        self._chains: dict[str, tuple[Sequence, list[Chain]]] = {}

    def run(self, batch: Batch, on_layer: LayerHook | None = None) -> StepOutput:
        self.begin(batch)
        for layer in range(NUM_LAYERS):
            self.compute(batch, layer)
            if on_layer is not None:
                on_layer(layer)
        return self.sample(batch)

    # --- a step, piece by piece ----------------------------------------------------------------

    def begin(self, batch: Batch) -> None:
        self.move(batch.moves)

    def compute(self, batch: Batch, layer: int) -> None:
        for chunk in batch.prefill:
            self._compute(chunk.sequence, layer, chunk.begin, chunk.end)
        for sequence in batch.decode:
            self._compute(sequence, layer, sequence.num_computed, sequence.num_computed + 1)

    def sample(self, batch: Batch) -> StepOutput:
        ends = {chunk.sequence.key: chunk.end for chunk in batch.prefill}
        tokens = []
        for sequence in batch.sampled:
            end = ends.get(sequence.key, sequence.num_computed + 1)
            tokens.append(_token_after(self._gather(sequence.pages, NUM_LAYERS - 1, 0, end)))
        return StepOutput(tokens=tokens)

    def move(self, moves: Moves) -> None:
        for page, host_page in moves.saves:
            self._host[host_page] = [bytes(self._page(layer, page)) for layer in range(NUM_LAYERS)]
        for host_page, page in moves.restores:
            for layer, saved in enumerate(self._host[host_page]):
                self._page(layer, page)[:] = saved
        for copy in moves.copies:
            num_bytes = copy.num_positions * CELL_BYTES
            for layer in range(NUM_LAYERS):
                source = bytes(self._page(layer, copy.source)[:num_bytes])
                self._page(layer, copy.target)[:num_bytes] = source

    # --- the KV store --------------------------------------------------------------------------

    def read(self, pages: Pages, layer: int, begin: int, end: int, out: memoryview) -> None:
        out[:] = self._gather(pages, layer, begin, end)

    def write(self, pages: Pages, layer: int, begin: int, end: int, data: memoryview) -> None:
        at, last = begin * CELL_BYTES, end * CELL_BYTES
        first, size = at, self._page_bytes
        while at < last:
            number, offset = divmod(at, size)
            length = min(size - offset, last - at)
            page = self._page(layer, pages[number])
            page[offset : offset + length] = data[at - first : at - first + length]
            at += length

    # --- inside --------------------------------------------------------------------------------

    def _compute(self, sequence: Sequence, layer: int, begin: int, end: int) -> None:
        expected = self._chain(sequence, layer).upto(sequence.tokens, end)
        cells = memoryview(expected)
        self.write(sequence.pages, layer, begin, end, cells[begin * CELL_BYTES : end * CELL_BYTES])
        found = self._gather(sequence.pages, layer, 0, end)
        if found != expected[: end * CELL_BYTES]:
            raise AssertionError(self._difference(sequence, layer, found, expected))

    def _difference(self, sequence: Sequence, layer: int, found: bytes, expected: bytes) -> str:
        wrong = [
            at for at in range(0, len(found), 8) if found[at : at + 8] != expected[at : at + 8]
        ]
        places = ", ".join(str(at // CELL_BYTES) for at in wrong[:5])
        return f"{sequence.key} reads foreign KV in layer {layer} at positions {places}, ..."

    def _chain(self, sequence: Sequence, layer: int) -> "Chain":
        known = self._chains.get(sequence.key)
        if known is None or known[0] is not sequence:
            chains = [Chain(number) for number in range(NUM_LAYERS)]
            known = self._chains[sequence.key] = (sequence, chains)
        return known[1][layer]

    def _gather(self, pages: Pages, layer: int, begin: int, end: int) -> bytes:
        if begin == end:
            return b""
        size, cells = self._page_bytes, self._cells[layer]
        first, last = begin * CELL_BYTES, end * CELL_BYTES
        numbers = range(first // size, (last - 1) // size + 1)
        found = b"".join([cells[pages[n] * size : (pages[n] + 1) * size] for n in numbers])
        offset = numbers[0] * size
        return found[first - offset : last - offset]

    def _page(self, layer: int, page: int) -> memoryview:
        return self._cells[layer][page * self._page_bytes : (page + 1) * self._page_bytes]


class Chain:
    """The KV of one token sequence in one layer, as far as it was asked for."""

    def __init__(self, layer: int) -> None:
        self._state = layer + 1
        self._cells = b""

    def upto(self, tokens: Tokens[int], end: int) -> bytes:
        """At least the first `end` cells."""
        known = len(self._cells) // CELL_BYTES
        if known < end:
            state, cells = self._state, array("Q")
            for token in tokens[known:end]:
                state = (state * _FACTOR + token + 1) & _MASK
                cells.append(state)
            self._state = state
            self._cells += cells.tobytes()
        return self._cells


def _token_after(cells: bytes) -> int:
    return xxh3_64_intdigest(cells) % VOCABULARY


def reference(prompt: Tokens[int], num_tokens: int) -> list[int]:
    """What the model answers to `prompt` when nothing disturbs it."""
    chain, tokens = Chain(NUM_LAYERS - 1), list(prompt)
    for _ in range(num_tokens):
        tokens.append(_token_after(chain.upto(tokens, len(tokens))))
    return tokens[len(prompt) :]
