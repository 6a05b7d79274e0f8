"""Traces of traffic, read line by line: our own JSONL, Mooncake's, Azure's, and conversations.

Readers refuse what they do not understand, with file and line (`TrafficError`), and lines that are
not in the order of time.
"""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from mserve.runtime.traffic.arrivals import (
    BLOCK_TOKENS,
    Arrival,
    TrafficError,
    num_blocks,
    unlike_any,
)
from mserve.runtime.traffic.azure import AZURE_HEADER, azure_rows
from mserve.runtime.traffic.conversations import (
    CountTokens,
    Pace,
    estimated_tokens,
    read_conversations,
)
from mserve.runtime.traffic.refusals import line_refused
from mserve.runtime.traffic.suggestions import meant
from mserve.runtime.traffic.trace_lines import (
    at_line,
    in_order,
    json_lines,
    numbered_lines,
)

MOONCAKE_BLOCK_TOKENS = 512
MOONCAKE_TICK_S = 3.0

Count = Annotated[int, Meta(ge=0)]
PositiveCount = Annotated[int, Meta(ge=1)]


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What formats leave open; each reader takes from it what it needs."""

    seed: int = 0
    count: CountTokens = estimated_tokens  # tokens of a text, in conversations
    pace: Pace = field(default_factory=Pace)
    tick_s: float = MOONCAKE_TICK_S  # 0 leaves Mooncake's times as they are
    block_tokens: int = BLOCK_TOKENS  # where the trace has no blocks of its own


def read_trace(
    path: Path, format_name: str | None = None, options: ReadOptions | None = None
) -> Iterator[Arrival]:
    """The arrivals in a file, in the order of time, as they are asked for.

    `format_name` is a key of `FORMATS`; None finds it out from the first line. Raises TrafficError: at
    once if the format is unknown or the file empty or not there, later if a line is wrong.
    """
    name = detected(path) if format_name is None else format_name
    if name not in FORMATS:
        raise TrafficError(f"There is no trace format {name!r}; {meant(name, FORMATS)}")
    with closing(numbered_lines(path)) as lines:
        _first_line(path, lines)
    return _some(path, FORMATS[name].read(path, options or ReadOptions()))


def _some(path: Path, arrivals: Iterator[Arrival]) -> Iterator[Arrival]:
    first = next(arrivals, None)
    if first is None:
        raise TrafficError(f"The trace {str(path)!r} holds no request: give it one a line.")
    yield first
    yield from arrivals


# --- our own ------------------------------------------------------------------------------------


class _OwnLine(Struct, forbid_unknown_fields=True):
    at_s: Annotated[float, Meta(ge=0)]
    num_prompt: PositiveCount
    num_output: PositiveCount
    blocks: tuple[int, ...] | None = None  # None: shares nothing
    block_tokens: PositiveCount = BLOCK_TOKENS
    session: str | None = None


def _read_own(path: Path, options: ReadOptions) -> Iterator[Arrival]:
    for number, line in in_order(path, json_lines(path, _OwnLine), lambda line: line.at_s):
        blocks, block_tokens = line.blocks, line.block_tokens
        if blocks is None:
            blocks = unlike_any(number, line.num_prompt, block_tokens)
        _expect_blocks(path, number, blocks, line.num_prompt, block_tokens)
        lengths = line.num_prompt, line.num_output
        yield Arrival(line.at_s, *lengths, blocks, block_tokens, line.session)


def write_trace(arrivals: Iterable[Arrival], path: Path) -> int:
    """Writes our own format; returns how many requests there were."""
    encode, num_written = msgspec.json.Encoder().encode, 0
    with path.open("wb") as file:
        for arrival in arrivals:
            file.write(encode(arrival) + b"\n")
            num_written += 1
    return num_written


# --- Mooncake -----------------------------------------------------------------------------------


class _MooncakeLine(Struct):
    timestamp: Annotated[float, Meta(ge=0)]  # ms
    input_length: PositiveCount
    output_length: Count
    hash_ids: tuple[int, ...]

    @property
    def at_s(self) -> float:
        return self.timestamp / 1000


def _read_mooncake(path: Path, options: ReadOptions) -> Iterator[Arrival]:
    """Requests of one tick of its clock are spread uniformly over it, in their order."""
    rng = random.Random(options.seed)
    lines = in_order(path, json_lines(path, _MooncakeLine), lambda line: line.at_s)
    ticks = itertools.groupby(lines, key=lambda line: line[1].at_s)
    groups = ((tick_s, list(members)) for tick_s, members in ticks)
    begin_s: float | None = None
    for (tick_s, members), (next_s, _) in itertools.pairwise(itertools.chain(groups, [_NEVER])):
        begin_s = tick_s if begin_s is None else begin_s
        width_s = min(options.tick_s, next_s - tick_s)
        delays = sorted(rng.random() * width_s for _ in members)
        for delay_s, (number, line) in zip(delays, members, strict=True):
            yield _mooncake_arrival(path, number, line, tick_s - begin_s + delay_s)


_NEVER: tuple[float, list[tuple[int, _MooncakeLine]]] = (float("inf"), [])


def _mooncake_arrival(path: Path, number: int, line: _MooncakeLine, at_s: float) -> Arrival:
    num_prompt, blocks = line.input_length, line.hash_ids
    _expect_blocks(path, number, blocks, num_prompt, MOONCAKE_BLOCK_TOKENS)
    num_output = max(1, line.output_length)
    return Arrival(at_s, num_prompt, num_output, blocks, MOONCAKE_BLOCK_TOKENS)


def _expect_blocks(
    path: Path, number: int, blocks: Sequence[int], num_prompt: int, block_tokens: int
) -> None:
    expected = num_blocks(num_prompt, block_tokens)
    if len(blocks) != expected:
        needed = f"{num_prompt} prompt tokens in blocks of {block_tokens} need {expected} ids"
        raise at_line(path, number, f"{needed}, not {len(blocks)}.")


# --- Azure --------------------------------------------------------------------------------------


def _read_azure(path: Path, options: ReadOptions) -> Iterator[Arrival]:
    """It says nothing of contents, so no prompt begins like another."""
    begin_s: float | None = None
    block_tokens = options.block_tokens
    for number, row in in_order(path, azure_rows(path), lambda row: row.at_s):
        begin_s = row.at_s if begin_s is None else begin_s
        blocks = unlike_any(number, row.num_prompt, block_tokens)
        lengths = row.num_prompt, max(1, row.num_output)
        yield Arrival(row.at_s - begin_s, *lengths, blocks, block_tokens)


# --- which one ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Format:
    """`signatures`: fields that a line has in this format, in one combination or another."""

    read: Callable[[Path, ReadOptions], Iterator[Arrival]]
    signatures: tuple[frozenset[str], ...] = ()


def _conversations(path: Path, options: ReadOptions) -> Iterator[Arrival]:
    rng = random.Random(options.seed)
    return read_conversations(path, options.count, rng, options.pace, options.block_tokens)


FORMATS: Mapping[str, Format] = {
    "mserve": Format(_read_own, (frozenset({"at_s", "num_prompt", "num_output"}),)),
    "mooncake": Format(
        _read_mooncake,
        (frozenset({"timestamp", "input_length", "output_length", "hash_ids"}),),
    ),
    "azure": Format(_read_azure),
    "conversations": Format(
        _conversations,
        (
            frozenset({"prompt", "response"}),
            frozenset({"conversations"}),
            frozenset({"messages"}),
        ),
    ),
}


def detected(path: Path) -> str:
    """The format of a trace by its first line: a key of `FORMATS`. Raises TrafficError."""
    with closing(numbered_lines(path)) as lines:
        number, line = _first_line(path, lines)
    if line.startswith(AZURE_HEADER[0].encode()):
        return "azure"
    if line.startswith(b"["):
        raise TrafficError(
            f"{path} begins with '[', but a trace has one object a line:"
            f" `jq -c '.[]' {path}` makes that of a JSON array."
        )
    found = _fields(path, number, line)
    for name, known in FORMATS.items():
        if any(signature <= found for signature in known.signatures):
            return name
    raise TrafficError(f"{path}, line {number}: {_nearest(found)}")


def _first_line(path: Path, lines: Iterator[tuple[int, bytes]]) -> tuple[int, bytes]:
    for numbered in lines:
        return numbered
    raise TrafficError(
        f"The trace {str(path)!r} is empty: it must hold one request a line (docs/benchmarking.md)."
    )


def _fields(path: Path, number: int, line: bytes) -> frozenset[str]:
    try:
        return frozenset(msgspec.json.decode(line, type=dict[str, Any]))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if line.startswith(b"{") and not isinstance(error, UnicodeDecodeError):
            raise at_line(path, number, f"{line_refused(error, line)}.") from None
        header = ",".join(AZURE_HEADER)
        raise TrafficError(
            f"{path}, line {number}: this is no trace; one begins with a JSON object, or with"
            f" {header}."
        ) from None


def _nearest(found: frozenset[str]) -> str:
    """What the fields lack to be those of the format that they are most like."""
    signatures = [(s, name) for name, known in FORMATS.items() for s in known.signatures]
    signature, name = max(signatures, key=lambda pair: len(pair[0] & found))
    if signature & found:
        missing = ", ".join(sorted(signature - found))
        return f"a trace of the format {name!r} would have {missing} here, too."
    fields = "; or ".join(", ".join(sorted(signature)) for signature, _ in signatures)
    return f"no known trace has these fields. A trace has, on every line: {fields}."
