"""Slots of the block table: masked, left, swept in parts, used again."""

from mserve.runtime.cluster.block_table import BlockTable

KEYS = list(range(1000))


def test_a_masked_slot_collects_blocks_unseen() -> None:
    table = BlockTable()
    hidden, seen = table.enter("hidden", masked=True), table.enter("seen")
    table.add(hidden, KEYS)
    table.add(seen, KEYS[:3])
    assert table.lookup(KEYS) == {"seen": 3}
    table.unmask(hidden)
    assert table.lookup(KEYS) == {"hidden": 1000, "seen": 3}


def test_a_slot_is_used_again_only_after_its_sweep() -> None:
    table = BlockTable()
    first, other = table.enter("first"), table.enter("other")
    table.add(first, KEYS)
    table.add(other, KEYS[:10])
    table.leave(first)
    assert table.lookup(KEYS) == {"other": 10}
    parts = 1
    while table.sweep():
        assert table.enter(f"new-{parts}") != first
        parts += 1
    assert parts == 256
    assert table.num_blocks == 10
    assert table.enter("last") == first
    assert table.lookup(KEYS) == {"other": 10}


def test_who_leaves_amid_a_sweep_has_the_next_one() -> None:
    table = BlockTable()
    first, second = table.enter("first"), table.enter("second")
    table.add(first, KEYS)
    table.add(second, KEYS)
    table.leave(first)
    assert table.sweep(100)
    table.leave(second)
    assert table.sweep(156)
    assert table.num_blocks == len(KEYS)
    assert not table.sweep(256)
    assert table.num_blocks == 0
    assert {table.enter("third"), table.enter("fourth")} == {first, second}


def test_it_is_taken_apart_in_many_steps() -> None:
    table = BlockTable()
    table.add(table.enter("w"), KEYS)
    assert len(list(table.dismantle())) == 256
    assert table.num_blocks == 0
