"""Counters, gauges and histograms, and their text form for Prometheus (exposition format 0.0.4).

A `Metrics` object owns its instruments; there is no global registry. Label values are given by
position, in the order of the label names.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

LATENCY_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip

Labels = tuple[str, ...]


class Counter:
    """Only grows."""

    kind = "counter"

    def __init__(self, name: str, text: str, labels: Labels = ()) -> None:
        self.name, self.text, self.labels = name, text, labels
        self._values: dict[Labels, float] = {} if labels else {(): 0.0}

    def add(self, amount: float = 1, *values: str) -> None:
        self._values[values] = self._values.get(values, 0.0) + amount

    def value(self, *values: str) -> float:
        return self._values.get(values, 0.0)

    def samples(self) -> Iterator[tuple[str, str, float]]:
        for values, value in self._values.items():
            yield self.name, render_labels(self.labels, values), value


class Gauge:
    """Goes up and down; or is read when asked for, from `read` (label values to value)."""

    kind = "gauge"

    def __init__(
        self,
        name: str,
        text: str,
        labels: Labels = (),
        read: Callable[[], dict[Labels, float]] | None = None,
    ) -> None:
        self.name, self.text, self.labels = name, text, labels
        self._values: dict[Labels, float] = {}
        self._read = read

    def set(self, value: float, *values: str) -> None:
        self._values[values] = value

    def add(self, amount: float, *values: str) -> None:
        self._values[values] = self._values.get(values, 0.0) + amount

    def value(self, *values: str) -> float:
        return (self._read() if self._read else self._values).get(values, 0.0)

    def samples(self) -> Iterator[tuple[str, str, float]]:
        for values, value in (self._read() if self._read else self._values).items():
            yield self.name, render_labels(self.labels, values), value


class Histogram:
    """Counts observations by upper bound; `bounds` ascend, +Inf is implied."""

    kind = "histogram"

    def __init__(
        self, name: str, text: str, bounds: Sequence[float] = LATENCY_BUCKETS_S, labels: Labels = ()
    ) -> None:
        self.name, self.text, self.labels = name, text, labels
        self._bounds = tuple(bounds)
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def observe(self, value: float, *values: str) -> None:
        counts = self._counts.get(values)
        if counts is None:
            counts = self._counts[values] = [0] * (len(self._bounds) + 1)
        counts[bisect_left(self._bounds, value)] += 1
        self._sums[values] = self._sums.get(values, 0.0) + value

    def samples(self) -> Iterator[tuple[str, str, float]]:
        for values, counts in self._counts.items():
            total = 0
            for bound, count in zip((*self._bounds, float("inf")), counts, strict=True):
                total += count
                edge = "+Inf" if bound == float("inf") else f"{bound:g}"
                labels = render_labels((*self.labels, "le"), (*values, edge))
                yield f"{self.name}_bucket", labels, total
            yield f"{self.name}_sum", render_labels(self.labels, values), self._sums[values]
            yield f"{self.name}_count", render_labels(self.labels, values), total


Instrument = Counter | Gauge | Histogram
T = TypeVar("T", Counter, Gauge, Histogram)


class Metrics:
    """The instruments of one process, in the order they were made."""

    def __init__(self) -> None:
        self._instruments: list[Instrument] = []

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        return self._keep(Counter(name, text, labels))

    def gauge(
        self,
        name: str,
        text: str,
        *labels: str,
        read: Callable[[], dict[Labels, float]] | None = None,
    ) -> Gauge:
        return self._keep(Gauge(name, text, labels, read))

    def histogram(
        self, name: str, text: str, *labels: str, bounds: Sequence[float] = LATENCY_BUCKETS_S
    ) -> Histogram:
        return self._keep(Histogram(name, text, bounds, labels))

    def render(self) -> str:
        return "".join(f"{line}\n" for each in self._instruments for line in _render(each))

    def _keep(self, instrument: T) -> T:
        self._instruments.append(instrument)
        return instrument


def _render(instrument: Instrument) -> Iterator[str]:
    yield f"# HELP {instrument.name} {instrument.text}"
    yield f"# TYPE {instrument.name} {instrument.kind}"
    for name, labels, value in instrument.samples():
        yield f"{name}{labels} {value:.17g}"


def render_labels(names: Labels, values: Labels) -> str:
    assert len(names) == len(values), f"labels {names} were given the values {values}"
    if not names:
        return ""
    pairs = zip(names, values, strict=True)
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in pairs) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
