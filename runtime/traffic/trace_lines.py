"""The lines of a trace, one by one: numbered, decoded, in the order of time.

What is wrong with one is raised with file and line (`TrafficError`), and so is a file that is no
text. Knows no format.
"""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from mserve.runtime.traffic.arrivals import TrafficError
from mserve.runtime.traffic.refusals import line_refused

T = TypeVar("T")
S = TypeVar("S", bound=Struct)

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PACKED = {
    b"\x1f\x8b": ("gzip", "gunzip -k"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"\xfd7zXZ": ("xz", "unxz -k"),
    b"BZh": ("bzip2", "bunzip2 -k"),
    b"PK\x03\x04": ("zip", "unzip"),
}
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def numbered_lines(path: Path) -> Generator[tuple[int, bytes], None, None]:
    """(line number, line) for those that are not blank. Raises TrafficError for a file that cannot
    be read, or is no text."""
    if path.is_dir():
        raise TrafficError(f"The trace {str(path)!r} is a folder: name a file in it.")
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    _check_text(path, line)
                text = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
                if text := text.strip():
                    yield number, text
    except OSError as error:
        raise TrafficError(f"The trace {str(path)!r} cannot be read: {error.strerror}.") from error


def _check_text(path: Path, first: bytes) -> None:
    name = f"The trace {str(path)!r}"
    for magic, (packer, command) in _PACKED.items():
        if first.startswith(magic):
            raise TrafficError(
                f"{name} is packed with {packer}: unpack it with `{command} {path}`."
            )
    if first.startswith(_UTF_16):
        raise TrafficError(f"{name} is text in UTF-16: save it as UTF-8.")
    if b"\0" in first:
        raise TrafficError(f"{name} is a binary file: a trace is text, with one request a line.")


def json_lines(path: Path, kind: type[S]) -> Iterator[tuple[int, S]]:
    """(line number, object). Raises TrafficError for a line that is no `kind` as JSON."""
    decode = msgspec.json.Decoder(kind).decode
    for number, line in numbered_lines(path):
        try:
            yield number, decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise at_line(
                path, number, f"{line_refused(error, line, kind.__struct_encode_fields__)}."
            ) from None


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
