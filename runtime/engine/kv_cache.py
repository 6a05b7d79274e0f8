"""The KV cache's pages: which are free, which sequence holds which, which are kept for later prompts.

Owns page ids, never their contents. The prefix tree has one node per block of `page_size` tokens,
found by its chained key (runtime/blocks.py) and confirmed by its parent and tokens, so that a
collision of keys never serves another prompt's KV. Knows neither time nor scheduling.

Every page is in exactly one place:

    free                          on the free list
    own       refs == 1           in one sequence's table, invisible to all others
    cached    refs == 0           in the tree; in `_unused`, where the next eviction takes the first
    shared    refs >= 1           in the tree and in `refs` tables

A sequence's table begins with a path of the tree, `pages[:num_shared]`; hence a node's refs are at
most its parent's, an unused node has only unused descendants, and as a table is given back from its
end they all stand before it in `_unused`: its first is the least recently used, and is a leaf.
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from mserve.runtime.blocks import block_keys
from mserve.runtime.engine.sequence import Sequence


@dataclass(slots=True, eq=False)
class Node:
    """A cached block: `page` holds the KV of `tokens` (int32 bytes) after the prefix `parent`."""

    key: int
    page: int
    parent: "Node | None"
    tokens: bytes


class KvCache:
    """Pages of `page_size` positions each, numbered from 0."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.version = 0  # changes whenever a reservation that failed might succeed
        self._free = array("i", range(num_pages - 1, -1, -1))
        self._refs = array("i", bytes(4 * num_pages))
        self._nodes: dict[int, Node] = {}
        self._node_of: list[Node | None] = [None] * num_pages
        self._unused: OrderedDict[int, Node] = OrderedDict()  # by page, least recently used first
        self._changes: dict[int, bool] = {}  # key -> stored; False: evicted

    @property
    def num_evictable(self) -> int:
        return len(self._unused)

    @property
    def num_available(self) -> int:
        """Pages that can be had without taking one from a sequence."""
        return len(self._free) + len(self._unused)

    def pages_for(self, num_positions: int) -> int:
        return -(-num_positions // self.page_size)

    def match(self, sequence: Sequence) -> list[Node]:
        """The longest cached path of its prompt's blocks, from the root; nothing is pinned.

        The block with the last token is left out: that token always runs, and writes there. Page
        aligned for now: a hit inside a page would need the batch to copy positions.
        """
        self._hash(sequence)
        path: list[Node] = []
        parent: Node | None = None
        for index in range((len(sequence.tokens) - 1) // self.page_size):
            node = self._find(sequence, index, parent)
            if node is None:
                break
            path.append(node)
            parent = node
        return path

    def match_length(self, tokens: bytes, salt: bytes) -> int:
        """Tokens of a prompt (int32 little endian) that `reserve` would match now."""
        ids = array("i")
        ids.frombytes(tokens)
        probe = Sequence(key="", tokens=ids, num_prompt=len(ids), salt=salt)
        return len(self.match(probe)) * self.page_size

    def reserve(self, sequence: Sequence, end: int) -> bool:
        """Pins what is cached of a sequence without pages and takes pages for the rest of
        [0, end), all of them or none. Sets `pages` and `num_matched`."""
        assert not sequence.pages, f"{sequence.key} has pages already"
        path = self.match(sequence)[: end // self.page_size]
        unused = sum(1 for node in path if not self._refs[node.page])
        num_new = self.pages_for(end) - len(path)
        if num_new > self.num_available - unused:
            return False
        for node in path:
            self._pin(node)
            sequence.pages.append(node.page)
        sequence.num_shared = len(path)
        sequence.num_matched = len(path) * self.page_size
        self._append(sequence, num_new)
        return True

    def grow(self, sequence: Sequence, end: int) -> bool:
        """Takes the pages its table lacks for [0, end), all of them or none."""
        num_new = self.pages_for(end) - len(sequence.pages)
        if num_new > self.num_available:
            return False
        self._append(sequence, num_new)
        return True

    def publish(self, sequence: Sequence, end: int) -> None:
        """Makes the whole blocks of [0, end) visible to later matches; their KV must be there.

        Where an equal block is cached already, the sequence's table takes that page and its own is
        freed, so that burst siblings share. While it sends, its pages stay: publishing then waits.
        """
        num_blocks = end // self.page_size
        if sequence.num_shared >= num_blocks:
            return
        self._hash(sequence)
        shared = sequence.num_shared
        parent = self._node_of[sequence.pages[shared - 1]] if shared else None
        for index in range(shared, num_blocks):
            parent = self._share(sequence, index, parent)
            if parent is None:
                break
            sequence.num_shared = index + 1
        self.version += 1

    def release(self, sequence: Sequence) -> None:
        """Gives back all its pages: shared ones stay cached, its own are free."""
        for index in range(len(sequence.pages) - 1, -1, -1):
            page = sequence.pages[index]
            self._refs[page] -= 1
            if index >= sequence.num_shared:
                self._free.append(page)
            elif not self._refs[page]:
                node = self._node_of[page]
                assert node is not None, f"page {page} is shared and not in the tree"
                self._unused[page] = node
        sequence.pages = array("i")
        sequence.num_shared = 0
        self.version += 1

    def snapshot(self) -> list[int]:
        """Keys of all cached blocks, parents first. Take the changes first: it includes them."""
        return list(self._nodes)

    def take_changes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Keys evicted and stored since the last call, as a net change, in order."""
        changes, self._changes = self._changes, {}
        evicted = tuple(key for key, stored in changes.items() if not stored)
        return evicted, tuple(key for key, stored in changes.items() if stored)

    def _hash(self, sequence: Sequence) -> None:
        if len(sequence.block_keys) < len(sequence.tokens) // self.page_size:
            tokens = sequence.tokens.tobytes()
            sequence.block_keys = block_keys(tokens, self.page_size, sequence.salt)

    def _find(self, sequence: Sequence, index: int, parent: Node | None) -> Node | None:
        node = self._nodes.get(sequence.block_keys[index])
        if node is None or node.parent is not parent:
            return None
        return node if node.tokens == self._block(sequence, index) else None

    def _block(self, sequence: Sequence, index: int) -> bytes:
        begin = index * self.page_size
        return sequence.tokens[begin : begin + self.page_size].tobytes()

    def _share(self, sequence: Sequence, index: int, parent: Node | None) -> Node | None:
        """Puts block `index` into the tree, or the tree's equal page into the table."""
        key, page = sequence.block_keys[index], sequence.pages[index]
        if key not in self._nodes:
            node = Node(key, page, parent, self._block(sequence, index))
            self._nodes[key] = self._node_of[page] = node
            self._note(key, stored=True)
            return node
        equal = self._find(sequence, index, parent)
        if equal is None or any(not send.done for send in sequence.sends):
            return None
        self._pin(equal)
        sequence.pages[index] = equal.page
        self._refs[page] = 0
        self._free.append(page)
        return equal

    def _pin(self, node: Node) -> None:
        if not self._refs[node.page]:
            del self._unused[node.page]
        self._refs[node.page] += 1

    def _append(self, sequence: Sequence, num_pages: int) -> None:
        for _ in range(num_pages):
            page = self._free.pop() if self._free else self._evict()
            self._refs[page] = 1
            sequence.pages.append(page)

    def _evict(self) -> int:
        page, node = self._unused.popitem(last=False)
        del self._nodes[node.key]
        self._node_of[page] = None
        self._note(node.key, stored=False)
        return page

    def _note(self, key: int, *, stored: bool) -> None:
        if self._changes.pop(key, stored) is stored:
            self._changes[key] = stored

    def check_integrity(self, sequences: Iterable[Sequence]) -> None:
        """Raises AssertionError unless every page is in exactly one place and refs are right.

        `sequences` are all that hold pages.
        """
        refs = array("i", bytes(4 * self.num_pages))
        own: list[int] = []
        for sequence in sequences:
            self._check_table(sequence)
            own += sequence.pages[sequence.num_shared :]
            for page in sequence.pages:
                refs[page] += 1
        assert refs == self._refs, "reference counts differ from what the sequences hold"
        cached = [node.page for node in self._nodes.values()]
        everything = sorted([*self._free, *cached, *own])
        assert everything == list(range(self.num_pages)), "a page is lost or in two places"
        self._check_tree()

    def _check_table(self, sequence: Sequence) -> None:
        parent: Node | None = None
        for index in range(sequence.num_shared):
            node = self._node_of[sequence.pages[index]]
            assert node is not None, f"{sequence.key} shares a page that is not cached"
            assert node.parent is parent, f"{sequence.key} shares pages that are no path"
            assert node.tokens == self._block(sequence, index), f"{sequence.key} has foreign KV"
            parent = node

    def _check_tree(self) -> None:
        for key, node in self._nodes.items():
            assert node.key == key, "a node is found under another key"
            assert self._node_of[node.page] is node, "a node's page belongs to another"
            parent = node.parent
            assert parent is None or self._nodes.get(parent.key) is parent, "an orphan is cached"
        unused = [node.page for node in self._nodes.values() if not self._refs[node.page]]
        assert sorted(unused) == sorted(self._unused), "the eviction queue is wrong"
        seen: set[int] = set()
        for node in reversed(self._unused.values()):
            parent = node.parent
            if parent is not None and not self._refs[parent.page]:
                assert parent.page in seen, "a parent would be evicted before its child"
            seen.add(node.page)
