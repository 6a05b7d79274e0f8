"""The KV cache's pages: which are free, which sequence holds which, which are kept for later prompts.

Owns page ids, never their contents: what must be copied is listed in `Moves`, which a runner does
before anything else of the next batch. Knows neither time nor scheduling.

Every page of the device is in exactly one place:

    free                          on the free list
    own       refs == 1           in one sequence's table, invisible to all others
    cached    refs == 0           in the tree; in `_unused`, where the next eviction takes the first
    shared    refs >= 1           in the tree and in `refs` tables, or read by the next batch's moves

A sequence's table begins with a path of the tree, `pages[:num_shared]`; hence a node's refs are at
most its parent's, an unused node has only unused descendants, and as a table is given back from its
end they all stand before it in `_unused`: its first is the least recently used, and what follows it
in the tree is in host memory, if anywhere.
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterable

from mserve.runtime.engine.host_tier import HostTier
from mserve.runtime.engine.moves import MoveList, Moves
from mserve.runtime.engine.prefix_match import Match, PrefixMatcher
from mserve.runtime.engine.prefix_tree import NOWHERE, Node, PrefixTree
from mserve.runtime.engine.sequence import Block, Sequence


class KvCache:
    """Pages of `page_size` positions each, numbered from 0; `host_pages` more in host memory."""

    def __init__(
        self, num_pages: int, page_size: int, host_pages: int = 0, *, keeps_blocks: bool = True
    ) -> None:
        """Without `keeps_blocks` nothing is published, and so nothing is matched."""
        self.num_pages = num_pages
        self.page_size = page_size
        self._keeps_blocks = keeps_blocks
        self.version = 0  # changes whenever a reservation that failed might succeed
        self._free = list(range(num_pages - 1, -1, -1))
        self._refs = [0] * num_pages  # in how many tables; a list: it is read far more than kept
        self._tree = PrefixTree()
        self._prefix = PrefixMatcher(self._tree, page_size)
        self._node_of: list[Node | None] = [None] * num_pages
        self._unused: OrderedDict[int, Node] = OrderedDict()  # by page, least recently used first
        self._host = HostTier(host_pages)
        self._moves = MoveList()
        self._sources: list[Node] = []  # pinned for the moves of the batch in flight

    @property
    def num_evictable(self) -> int:
        return len(self._unused)

    @property
    def num_available(self) -> int:
        """Pages that can be had without taking one from a sequence."""
        return len(self._free) + len(self._unused)

    @property
    def num_host_used(self) -> int:
        return self._host.num_used

    def pages_for(self, num_positions: int) -> int:
        return -(-num_positions // self.page_size)

    def match(self, tokens: bytes, salt: bytes) -> Match:
        """How much `reserve` would find now of a prompt (int32 little endian). Pins nothing."""
        ids = array("i")
        ids.frombytes(tokens)
        return self.found(Sequence(key="", tokens=ids, num_prompt=len(ids), salt=salt))

    def found(self, sequence: Sequence) -> Match:
        """How much `reserve` would find now of a sequence without pages."""
        return Match.of(self._prefix.match(sequence, len(sequence.tokens)), self.page_size)

    def cached_share(self, sequence: Sequence) -> float:
        """How much of what it has to compute `reserve` would find now, 0 to 1."""
        return self.found(sequence).num_tokens / len(sequence.tokens)

    def reserve(self, sequence: Sequence, end: int) -> bool:
        """Pins what is cached of a sequence without pages and takes pages for the rest of
        [0, end), all of them or none. Sets `pages` and `num_matched`."""
        assert not sequence.pages, f"{sequence.key} has pages already"
        hit = self._prefix.match(sequence, end)
        num_new = self.pages_for(end) - hit.num_on_device
        unused = sum(1 for node in hit.path if node.is_on_device and not self._refs[node.page])
        spare = self.num_available - unused - num_new
        if spare < 0:
            return False
        for node in hit.path:
            self._pin(node)
        partial = hit.partial if spare or not self._is_unused(hit.partial) else None
        if partial is not None:
            self._pin(partial)
        for node in hit.path:
            sequence.pages.append(node.page if node.is_on_device else self._restore(node))
        sequence.num_shared = len(hit.path)
        sequence.num_matched = len(hit.path) * self.page_size
        self._append(sequence, self.pages_for(end) - len(hit.path))
        if partial is not None:
            self._copy(partial, sequence, hit.num_partial)
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
        if sequence.num_shared >= num_blocks or not self._keeps_blocks:
            return
        shared = sequence.num_shared
        parent = self._node_of[sequence.pages[shared - 1]] if shared else None
        parent = parent or self._tree.root(sequence.salt)
        blocks = self._prefix.blocks(sequence, num_blocks)
        for index in range(shared, num_blocks):
            node = self._share(sequence, index, parent, blocks[index])
            if node is None:
                break
            parent = node
            sequence.num_shared = index + 1
        self.version += 1

    def release(self, sequence: Sequence) -> None:
        """Gives back all its pages: shared ones stay cached, its own are free."""
        own, shared = sequence.pages[sequence.num_shared :], sequence.pages[: sequence.num_shared]
        for page in reversed(own):
            self._refs[page] = 0
            self._free.append(page)
        for page in reversed(shared):
            self._unpin(page)
        sequence.pages = array("i")
        sequence.num_shared = 0
        self.version += 1

    def take_moves(self) -> Moves:
        """What must be copied before anything else reads or writes a page: the next batch's."""
        return self._moves.take()

    def settle_moves(self) -> None:
        """The moves taken last have been done."""
        for node in self._sources:
            self._unpin(node.page)
        if self._sources:
            self._sources = []
            self.version += 1
        self._host.settle()

    def snapshot(self) -> list[int]:
        """Keys of all cached blocks, parents first. Take the changes first: it includes them."""
        return self._tree.keys()

    def take_changes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Keys evicted and stored since the last call, as a net change, in order. A block is
        stored while it is in any tier."""
        return self._tree.take_changes()

    # --- pages ---------------------------------------------------------------------------------

    def _share(self, sequence: Sequence, index: int, parent: Node, block: Block) -> Node | None:
        """Puts block `index` into the tree, or the tree's equal page into the table."""
        key, tokens = block
        page = sequence.pages[index]
        equal = self._tree.with_key(key)
        if equal is None:
            node = self._node_of[page] = self._tree.add(key, parent, tokens)
            node.page = page
            return node
        if not equal.is_block(parent, tokens):
            return None
        if not equal.is_on_device:
            return self._adopt(equal, page)
        if any(not send.done for send in sequence.sends):
            return None
        self._pin(equal)
        sequence.pages[index] = equal.page
        self._refs[page] = 0
        self._free.append(page)
        return equal

    def _adopt(self, node: Node, page: int) -> Node | None:
        """A block in host memory that was computed again moves to the page that has it."""
        if self._host.holds(node):
            return None  # for the moment: the batch in flight reads it there
        self._host.remove(node)
        node.page, self._node_of[page] = page, node
        return node

    def _is_unused(self, node: Node | None) -> bool:
        return node is not None and node.page in self._unused

    def _pin(self, node: Node) -> None:
        if not node.is_on_device:
            self._host.hold(node)
            return
        self._unused.pop(node.page, None)
        self._refs[node.page] += 1

    def _unpin(self, page: int) -> None:
        self._refs[page] -= 1
        if not self._refs[page]:
            node = self._node_of[page]
            assert node is not None, f"page {page} is shared and not in the tree"
            self._unused[page] = node

    def _restore(self, node: Node) -> int:
        """Gives a block in host memory, which is held, a page of the device again."""
        page = node.page = self._take_page()
        self._node_of[page] = node
        self._moves.restore(node.host_page, page)
        return page

    def _copy(self, source: Node, sequence: Sequence, num_positions: int) -> None:
        """The beginning of a pinned block becomes that of the first page of the sequence's own."""
        target = sequence.pages[sequence.num_shared]
        if source.is_on_device:
            self._moves.copy(source.page, target, num_positions)
            self._sources.append(source)
        else:
            self._moves.restore(source.host_page, target)
        sequence.num_matched += num_positions

    def _append(self, sequence: Sequence, num_pages: int) -> None:
        sequence.pages.extend([self._take_page() for _ in range(num_pages)])

    def _take_page(self) -> int:
        page = self._free.pop() if self._free else self._evict()
        self._refs[page] = 1
        return page

    def _evict(self) -> int:
        """Takes the page of the least recently used block, which moves to host memory if it can."""
        page, node = self._unused.popitem(last=False)
        self._node_of[page] = None
        node.page = NOWHERE
        if not self._host.num_pages:
            self._tree.drop(node)
            return page
        if not self._host.has_free and (oldest := self._host.oldest()) is not None:
            self._host.remove(oldest)
            self._tree.drop(oldest)
        if self._host.has_free:
            self._host.put(node)
            self._moves.save(page, node.host_page)
        else:
            self._tree.drop(node)
        return page

    # --- checks --------------------------------------------------------------------------------

    def check_integrity(self, sequences: Iterable[Sequence]) -> None:
        """Raises AssertionError unless every page is in exactly one place and refs are right.

        `sequences` are all that hold pages.
        """
        refs = [0] * self.num_pages
        own: list[int] = []
        for sequence in sequences:
            self._check_table(sequence)
            own += sequence.pages[sequence.num_shared :]
            for page in sequence.pages:
                refs[page] += 1
        for node in self._sources:
            refs[node.page] += 1
        assert refs == self._refs, "reference counts differ from what the sequences hold"
        nodes = self._tree.nodes()
        cached = [node.page for node in nodes if node.is_on_device]
        everything = sorted([*self._free, *cached, *own])
        assert everything == list(range(self.num_pages)), "a page is lost or in two places"
        self._tree.check_integrity()
        self._host.check_integrity(nodes)
        self._check_unused(nodes)

    def _check_table(self, sequence: Sequence) -> None:
        parent = self._tree.root(sequence.salt)
        for index in range(sequence.num_shared):
            node = self._node_of[sequence.pages[index]]
            assert node is not None, f"{sequence.key} shares a page that is not cached"
            assert node.parent is parent, f"{sequence.key} shares pages that are no path"
            begin = index * self.page_size
            tokens = sequence.tokens[begin : begin + self.page_size].tobytes()
            assert node.tokens == tokens, f"{sequence.key} has foreign KV"
            parent = node

    def _check_unused(self, nodes: list[Node]) -> None:
        on_device = [node for node in nodes if node.is_on_device]
        assert all(self._node_of[n.page] is n for n in on_device), "a node's page is another's"
        unused = [node.page for node in on_device if not self._refs[node.page]]
        assert sorted(unused) == sorted(self._unused), "the eviction queue is wrong"
        seen: set[int] = set()
        for node in reversed(self._unused.values()):
            parent = node.parent
            if parent is not None and self._is_unused(parent):
                assert parent.page in seen, "a parent would be evicted before its child"
            seen.add(node.page)
