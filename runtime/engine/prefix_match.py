"""Which cached blocks a sequence's tokens begin with, to the token.

Owns how a sequence is cut into blocks and hashed. Reads the tree and changes nothing; knows neither
who uses a page nor whether there are any left.
"""

from dataclasses import dataclass
from itertools import islice

from mserve.runtime.blocks import block_keys
from mserve.runtime.engine.prefix_tree import Node, PrefixTree
from mserve.runtime.engine.sequence import Block, Sequence


@dataclass(frozen=True, slots=True)
class Hit:
    """What is cached of a prompt: whole blocks, and `num_partial` tokens of one that follows."""

    path: list[Node]  # from the first block on: those on the device, then those in host memory
    partial: Node | None
    num_partial: int

    @property
    def num_on_device(self) -> int:
        """Blocks of `path` that need no page."""
        return sum(1 for node in self.path if node.is_on_device)


@dataclass(frozen=True, slots=True)
class Match:
    """Tokens of a prompt that are cached, by where their KV lies."""

    device_tokens: int
    host_tokens: int

    @classmethod
    def of(cls, hit: Hit, page_size: int) -> "Match":
        on_device = hit.num_on_device * page_size
        in_host = len(hit.path) * page_size - on_device
        if hit.partial is not None and hit.partial.is_on_device:
            return cls(on_device + hit.num_partial, in_host)
        return cls(on_device, in_host + hit.num_partial)

    @property
    def num_tokens(self) -> int:
        return self.device_tokens + self.host_tokens


class PrefixMatcher:
    def __init__(self, tree: PrefixTree, page_size: int) -> None:
        self._tree = tree
        self._page_size = page_size

    def match(self, sequence: Sequence, end: int) -> Hit:
        """The longest cached path of its tokens in [0, end); the last token is left out, since it
        always runs."""
        size = self._page_size
        limit = min(len(sequence.tokens) - 1, end)
        path: list[Node] = []
        parent = self._tree.root(sequence.salt)
        if not parent.children:
            return Hit(path, None, 0)
        for key, tokens in islice(self.blocks(sequence, limit // size), limit // size):
            node = self._tree.find(key, parent, tokens)
            if node is None:
                break
            path.append(node)
            parent = node
        begin = len(path) * size
        rest = sequence.tokens[begin : min(begin + size, limit)].tobytes()
        return Hit(path, *self._tree.nearest(parent, rest))

    def blocks(self, sequence: Sequence, num_blocks: int) -> list[Block]:
        """Its first `num_blocks` blocks, at least; no more are made, as a token of the next one may
        stand for one that is still to come."""
        known, size = sequence.blocks, self._page_size
        if len(known) < num_blocks:
            rest = sequence.tokens[len(known) * size : num_blocks * size].tobytes()
            keys = block_keys(rest, size, sequence.salt, known[-1][0] if known else None)
            begins = range(0, len(rest), 4 * size)
            known += [(k, rest[b : b + 4 * size]) for k, b in zip(keys, begins, strict=False)]
        return known
