"""The lines of a trace, one by one: numbered, decoded, in the order of time.

What is wrong with one is raised with file and line (`TrafficError`). Knows no format.
"""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from mserve.runtime.traffic.arrivals import TrafficError

T = TypeVar("T")

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def numbered_lines(path: Path) -> Generator[tuple[int, bytes], None, None]:
    """(line number, line) for those that are not blank. Raises TrafficError for an unreadable file."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                text = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
                if text := text.strip():
                    yield number, text
    except OSError as error:
        raise TrafficError(f"The trace {str(path)!r} cannot be read: {error.strerror}.") from error


def json_lines(path: Path, kind: type[T]) -> Iterator[tuple[int, T]]:
    """(line number, object). Raises TrafficError for a line that is no `kind` as JSON."""
    decode = msgspec.json.Decoder(kind).decode
    for number, line in numbered_lines(path):
        try:
            yield number, decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise at_line(path, number, f"{str(error).replace('`', '')}.") from None


def in_order(
    path: Path, lines: Iterator[tuple[int, T]], at_s: Callable[[T], float]
) -> Iterator[tuple[int, T]]:
    """The lines as they are. Raises TrafficError where one is earlier than that before it: two
    traces in one file, or another unit, would look like that, so they are not sorted silently."""
    latest_s = float("-inf")
    for number, line in lines:
        now_s = at_s(line)
        if now_s < latest_s:
            back_s = latest_s - now_s
            raise TrafficError(
                f"{path}, line {number}: it is {back_s:g} s earlier than the line before it."
                " Sort the trace by time."
            )
        latest_s = now_s
        yield number, line


def at_line(path: Path, number: int, problem: str) -> TrafficError:
    """To raise. `problem` is a sentence."""
    return TrafficError(f"{path}, line {number}: {problem} Mend or remove that line.")
