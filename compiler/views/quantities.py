"""Numbers as people read them: times, sizes, counts."""

import math


def duration(seconds: float) -> str:
    """`0 ms`, `0.04 ms`, `123.6 ms`, `2.77 s`, `5 min`: about as precise as a prediction is."""
    if not math.isfinite(seconds):
        return "never"
    if seconds >= 120:
        return f"{_short(seconds / 60, 1)} min"
    if seconds >= 0.99995:
        return f"{_short(seconds, 2)} s"
    millis = seconds * 1000
    return f"{_short(millis, 1)} ms" if millis >= 1 else f"{millis:.2g} ms"


def _short(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}".rstrip("0").rstrip(".")


def size(num_bytes: float) -> str:
    """`128 KiB`, `450 MiB`, `1.2 GiB`."""
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.3g} {unit}" if num_bytes < 1000 else f"{num_bytes:.0f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:,.3g} GiB" if num_bytes < 1000 else f"{num_bytes:,.0f} GiB"


def count(number: int, noun: str) -> str:
    """`1 token`, `3,600 tokens`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
