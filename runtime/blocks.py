"""Identity of KV blocks, defined once: the prefix cache, the prefix index and the router all use it.

A block is `block_tokens` consecutive prompt tokens; its key is xxh3-64 over the parent's key, the
cache salt and its tokens, so equal keys mean equal prefixes up to collisions (which a hit in the
engine confirms by comparing tokens). Only whole blocks have keys.
"""

from xxhash import xxh3_64_intdigest

ROOT_KEY = 0


def block_keys(
    tokens: bytes, block_tokens: int, salt: bytes = b"", parent: int | None = None
) -> list[int]:
    """Keys of the whole blocks of `tokens` (int32 little endian), in order; 64-bit integers. With
    `parent`, the key of the block before them, of tokens that go on."""
    size = 4 * block_tokens
    keys: list[int] = []
    if parent is None:
        parent = xxh3_64_intdigest(salt) if salt else ROOT_KEY
    for begin in range(0, len(tokens) - size + 1, size):
        parent = xxh3_64_intdigest(parent.to_bytes(8, "little") + tokens[begin : begin + size])
        keys.append(parent)
    return keys
