"""Types with units: what an expression is, and what arithmetic makes of two of them.

A number's unit is a product of powers of count, duration and bytes; a ratio has none of them. A
bare number is untyped, as a constant in Go, until it meets a count or a ratio (language guide,
"Expressions"). `UNKNOWN` fits everything, so that one mistake is reported once. Knows no syntax.
"""

from dataclasses import dataclass, replace
from enum import StrEnum


class Kind(StrEnum):
    NUMBER = "number"
    BOOL = "truth value"
    TEXT = "text"
    WORKER = "worker"
    POOL = "pool"
    PROMPT = "part of the prompt"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Type:
    """`count`, `duration` and `bytes` are exponents; `pools` are where a worker may come from."""

    kind: Kind
    count: int = 0
    duration: int = 0
    bytes: int = 0
    untyped: bool = False
    pools: frozenset[str] = frozenset()

    @property
    def is_number(self) -> bool:
        return self.kind is Kind.NUMBER

    @property
    def is_ratio(self) -> bool:
        return self.is_number and not self.untyped and self.exponents == (0, 0, 0)

    @property
    def exponents(self) -> tuple[int, int, int]:
        return self.count, self.duration, self.bytes

    def __str__(self) -> str:
        if not self.is_number:
            return f"a {self.kind.value}"
        if self.untyped:
            return "a bare number"
        return _UNIT_NAMES.get(self.exponents) or f"a number of {_spelled(self)}"


COUNT = Type(Kind.NUMBER, count=1)
RATIO = Type(Kind.NUMBER)
DURATION = Type(Kind.NUMBER, duration=1)
BYTES = Type(Kind.NUMBER, bytes=1)
UNTYPED = Type(Kind.NUMBER, untyped=True)
BOOL = Type(Kind.BOOL)
TEXT = Type(Kind.TEXT)
WORKER = Type(Kind.WORKER)
POOL = Type(Kind.POOL)
PROMPT = Type(Kind.PROMPT)
UNKNOWN = Type(Kind.UNKNOWN)

_UNIT_NAMES = {
    COUNT.exponents: "a count",
    RATIO.exponents: "a ratio",
    DURATION.exponents: "a duration",
    BYTES.exponents: "a number of bytes",
}


def multiply(left: Type, right: Type) -> Type:
    """Of two numbers; a bare number is a ratio beside one with a unit."""
    if left.untyped and right.untyped:
        return UNTYPED
    return Type(
        Kind.NUMBER,
        left.count + right.count,
        left.duration + right.duration,
        left.bytes + right.bytes,
    )


def divide(left: Type, right: Type) -> Type:
    """Of two numbers; a bare number is a ratio beside one with a unit."""
    if left.untyped and right.untyped:
        return UNTYPED
    return Type(
        Kind.NUMBER,
        left.count - right.count,
        left.duration - right.duration,
        left.bytes - right.bytes,
    )


def unify(left: Type, right: Type) -> Type | None:
    """The type of "one or the other", or None where the two differ.

    A bare number becomes a count or a ratio beside one; a duration or bytes needs its suffix.
    """
    if UNKNOWN in (left, right):
        return UNKNOWN
    if left.kind is not right.kind:
        return None
    if not left.is_number:
        return replace(left, pools=left.pools | right.pools)
    if left.untyped:
        return right if right.untyped or right in (COUNT, RATIO) else None
    if right.untyped:
        return left if left in (COUNT, RATIO) else None
    return left if left.exponents == right.exponents else None


def _spelled(number: Type) -> str:
    """`count/duration`, `duration*duration`, `1/count`: a unit that has no name of its own."""
    above: list[str] = []
    below: list[str] = []
    for unit, exponent in zip(("count", "duration", "bytes"), number.exponents, strict=True):
        (above if exponent > 0 else below).extend([unit] * min(abs(exponent), 4))
    return "*".join(above or ["1"]) + "".join(f"/{unit}" for unit in below)
