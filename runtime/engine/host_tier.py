"""The host tier of the KV cache: which blocks lie in which pages of host memory, who goes first.

Blocks that lost their device page, until they are used again. They come leaf first, as the device
evicts them, so the first one of the queue has no descendants. Owns page ids, never their contents.
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterable

from mserve.runtime.engine.prefix_tree import NOWHERE, Node


class HostTier:
    """Pages of the size of the device's, numbered from 0."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._free = array("i", range(num_pages - 1, -1, -1))
        self._blocks: OrderedDict[int, Node] = OrderedDict()  # by page, oldest first
        self._held: dict[int, Node] = {}  # by page: read by the moves of the batch in flight

    @property
    def has_free(self) -> bool:
        return bool(self._free)

    @property
    def num_used(self) -> int:
        return self.num_pages - len(self._free)

    def put(self, node: Node) -> None:
        """Gives a block one of the free pages."""
        node.host_page = self._free.pop()
        self._blocks[node.host_page] = node

    def oldest(self) -> Node | None:
        """The block that has been here longest and is not held."""
        return next(iter(self._blocks.values()), None)

    def hold(self, node: Node) -> None:
        """Its page will be read; it stays until `settle`."""
        if self._blocks.pop(node.host_page, None) is not None:
            self._held[node.host_page] = node

    def holds(self, node: Node) -> bool:
        return node.host_page in self._held

    def remove(self, node: Node) -> None:
        """Takes a block away that is not held."""
        del self._blocks[node.host_page]
        self._release(node)

    def settle(self) -> None:
        """What was held has been read: blocks that are on the device again leave, the others
        count as used just now."""
        held, self._held = self._held, {}
        for page, node in held.items():
            if node.is_on_device:
                self._release(node)
            else:
                self._blocks[page] = node

    def _release(self, node: Node) -> None:
        self._free.append(node.host_page)
        node.host_page = NOWHERE

    def check_integrity(self, nodes: Iterable[Node]) -> None:
        """Raises AssertionError unless every page is free or has one cached block, and children
        stand before their parents."""
        used = {node.host_page: node for node in nodes if node.host_page != NOWHERE}
        assert used == self._blocks | self._held, "a host page is lost, or has another block"
        everything = sorted([*self._free, *self._blocks, *self._held])
        assert everything == list(range(self.num_pages)), "a host page is in two places"
        seen: set[int] = set()
        for page, node in self._blocks.items():
            assert not node.is_on_device, "a block is in both tiers and nothing moves"
            waiting = [c for c in node.children if c.host_page not in self._held]
            assert all(c.host_page in seen for c in waiting), "a parent would go before its child"
            seen.add(page)
