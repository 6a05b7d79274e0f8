"""The prefix tree: which blocks of tokens are cached, and what they follow.

One node per block of `page_size` tokens, found by its chained key (runtime/blocks.py) and confirmed
by its parent and tokens, so that a collision of keys never serves another prompt's KV. One root per
cache salt. Siblings stand sorted by their tokens: the one that shares the longest beginning with
any given tokens is a neighbour of where these would stand.

Knows neither which pages are in use nor by whom; a node only carries where its KV lies.
"""

from bisect import bisect_left
from dataclasses import dataclass, field
from operator import attrgetter

NOWHERE = -1
_TOKEN_BYTES = 4
_STRIDE = 64  # bytes compared at once
_tokens = attrgetter("tokens")


@dataclass(slots=True, eq=False)
class Node:
    """A cached block: the KV of `tokens` (int32 bytes) after the prefix `parent`.

    It lies in the device page `page`, or in the host page `host_page`, or in both while it is
    copied back.
    """

    key: int
    parent: "Node | None"  # None: a root, whose `tokens` are the salt
    tokens: bytes
    page: int = NOWHERE
    host_page: int = NOWHERE
    children: "list[Node]" = field(default_factory=list)  # sorted by tokens

    @property
    def is_on_device(self) -> bool:
        return self.page != NOWHERE

    def is_block(self, parent: "Node", tokens: bytes) -> bool:
        """It is the block `tokens` after `parent`."""
        return self.parent is parent and self.tokens == tokens


class PrefixTree:
    """All cached blocks, and the net change of their set since it was last asked for."""

    def __init__(self) -> None:
        self._nodes: dict[int, Node] = {}  # parents before their children
        self._roots: dict[bytes, Node] = {}  # by salt
        self._changes: dict[int, bool] = {}  # key -> stored; False: evicted

    def __len__(self) -> int:
        return len(self._nodes)

    def root(self, salt: bytes) -> Node:
        """Where prompts under this salt begin. It is kept while it has children."""
        return self._roots.get(salt) or Node(0, None, salt)

    def with_key(self, key: int) -> Node | None:
        """The cached block of this key; maybe another one than meant."""
        return self._nodes.get(key)

    def find(self, key: int, parent: Node, tokens: bytes) -> Node | None:
        """The block `tokens` after `parent`, if it is cached."""
        node = self._nodes.get(key)
        return node if node is not None and node.is_block(parent, tokens) else None

    def nearest(self, parent: Node, tokens: bytes) -> tuple[Node | None, int]:
        """The block after `parent` that begins like `tokens` for longest, and for how many."""
        children = parent.children
        place = _place(children, tokens)
        nearest, longest = None, 0
        for node in children[max(0, place - 1) : place + 1]:
            length = num_common_tokens(node.tokens, tokens)
            if length > longest:
                nearest, longest = node, length
        return nearest, longest

    def add(self, key: int, parent: Node, tokens: bytes) -> Node:
        """A new block; its key must be free."""
        assert key not in self._nodes, "two blocks are cached under one key"
        if parent.parent is None:
            self._roots[parent.tokens] = parent
        node = self._nodes[key] = Node(key, parent, tokens)
        parent.children.insert(_place(parent.children, tokens), node)
        self._note(key, stored=True)
        return node

    def drop(self, node: Node) -> None:
        """Forgets a leaf."""
        parent = node.parent
        assert parent is not None, "a root is dropped"
        assert not node.children, "a block is dropped that others follow"
        del self._nodes[node.key]
        del parent.children[_place(parent.children, node.tokens)]
        if parent.parent is None and not parent.children:
            del self._roots[parent.tokens]
        self._note(node.key, stored=False)

    def nodes(self) -> list[Node]:
        """All cached blocks, parents first."""
        return list(self._nodes.values())

    def keys(self) -> list[int]:
        return list(self._nodes)

    def take_changes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Keys evicted and stored since the last call, as a net change, in order."""
        if not self._changes:
            return (), ()
        changes, self._changes = self._changes, {}
        evicted = tuple(key for key, stored in changes.items() if not stored)
        return evicted, tuple(key for key, stored in changes.items() if stored)

    def _note(self, key: int, *, stored: bool) -> None:
        if self._changes.pop(key, stored) is stored:
            self._changes[key] = stored

    def check_integrity(self) -> None:
        """Raises AssertionError unless keys, parents and children agree."""
        num_children = 0
        for key, node in self._nodes.items():
            parent = node.parent
            assert node.key == key, "a node is found under another key"
            assert parent is not None, "a root is cached"
            known = self._roots.get(parent.tokens) if parent.parent is None else None
            known = known or self._nodes.get(parent.key)
            assert known is parent, "an orphan is cached"
            assert node in parent.children, "a parent does not know its child"
            assert node.children == sorted(node.children, key=_tokens), "siblings are unsorted"
            assert node.is_on_device or node.host_page != NOWHERE, "a cached block lies nowhere"
            assert not node.is_on_device or parent.parent is None or parent.is_on_device, (
                "a block is on the device and what it follows is not"
            )
            num_children += len(node.children)
        num_children += sum(len(root.children) for root in self._roots.values())
        assert all(root.children for root in self._roots.values()), "an empty root is kept"
        assert num_children == len(self._nodes), "a dropped node is still a child"


def _place(siblings: list[Node], tokens: bytes) -> int:
    """Where a block of these tokens stands among them, or would stand."""
    return bisect_left(siblings, tokens, key=_tokens) if siblings else 0


def num_common_tokens(a: bytes, b: bytes) -> int:
    """How many int32 tokens two strings have in common at their beginning."""
    size = min(len(a), len(b))
    begin = 0
    while begin < size and a[begin : begin + _STRIDE] == b[begin : begin + _STRIDE]:
        begin += _STRIDE
    end = min(size, begin + _STRIDE)
    difference = int.from_bytes(a[begin:end], "little") ^ int.from_bytes(b[begin:end], "little")
    if not difference:
        return size // _TOKEN_BYTES
    first_bit = (difference & -difference).bit_length() - 1
    return (begin + first_bit // 8) // _TOKEN_BYTES
