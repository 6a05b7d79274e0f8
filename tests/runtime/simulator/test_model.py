"""The model of hashes notices KV that is not its sequence's."""

from array import array

import pytest

from mserve.runtime.engine.batching import Batch, Chunk
from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.simulator.model import CELL_BYTES, HashedModel, reference

PROMPT = [5, 6, 7, 8, 9]


def sequence(tokens: list[int], *pages: int) -> Sequence:
    return Sequence("plan/0", array("i", tokens), len(tokens), pages=array("i", pages))


def prefill(of: Sequence, begin: int = 0) -> Batch:
    return Batch((Chunk(of, begin, len(of.tokens), sample=True),), ())


def test_it_answers_as_the_reference_says() -> None:
    model, prompt = HashedModel(4, 4), sequence(PROMPT, 2, 0)
    expected = reference(PROMPT, 2)
    assert model.run(prefill(prompt)).tokens == expected[:1]
    prompt.num_computed = 5
    prompt.tokens.append(expected[0])
    assert model.run(Batch((), (prompt,))).tokens == expected[1:]


def test_the_reference_depends_on_every_token() -> None:
    answers = {tuple(reference([*PROMPT[:at], 1, *PROMPT[at:]], 8)) for at in range(5)}
    assert len(answers) == 5


def test_kv_travels_between_page_sizes() -> None:
    source, target = HashedModel(4, 4), HashedModel(8, 1)
    source.run(prefill(sequence(PROMPT, 3, 1)))
    there = sequence(PROMPT, 4, 2, 7, 0, 1)
    for layer in range(source.num_layers):
        moved = memoryview(bytearray(4 * CELL_BYTES))
        source.read([3, 1], layer, 0, 4, moved)
        target.write([4, 2, 7, 0, 1], layer, 0, 4, moved)
    assert target.run(prefill(there, begin=4)).tokens == reference(PROMPT, 1)


def test_the_same_token_after_another_prefix_is_foreign() -> None:
    model = HashedModel(4, 4)
    model.run(prefill(sequence([1, 6, 7, 8, 9], 0, 1)))
    with pytest.raises(AssertionError, match="foreign KV in layer 0 at positions 0, 1, 2, 3"):
        model.run(prefill(sequence(PROMPT, 0, 1), begin=4))


def test_the_other_layer_is_foreign_too() -> None:
    model = HashedModel(4, 8)
    model.run(prefill(sequence(PROMPT, 0)))
    moved = memoryview(bytearray(4 * CELL_BYTES))
    model.read([0], 0, 0, 4, moved)
    model.write([0], 1, 0, 4, moved)
    with pytest.raises(AssertionError, match="in layer 1"):
        model.run(prefill(sequence(PROMPT, 0), begin=4))
