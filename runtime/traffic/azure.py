"""The rows of Azure's traces of LLM inference: when requests came, and how many tokens they had.

What is wrong with one is raised with file and line (`TrafficError`). Knows no prompt's contents:
nor do the traces.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mserve.runtime.traffic.refusals import not_text
from mserve.runtime.traffic.trace_lines import at_line, numbered_lines

AZURE_HEADER = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


@dataclass(frozen=True, slots=True)
class AzureRow:
    at_s: float  # of the calendar
    num_prompt: int
    num_output: int


def azure_rows(path: Path) -> Iterator[tuple[int, AzureRow]]:
    """(line number, row). Raises TrafficError."""
    lines = numbered_lines(path)
    number, header = next(lines)
    if tuple(header.decode(errors="replace").split(",")) != AZURE_HEADER:
        raise at_line(path, number, f"the header of Azure's traces is {','.join(AZURE_HEADER)}.")
    for number, line in lines:
        try:
            yield number, _row(next(csv.reader([line.decode()])))
        except UnicodeDecodeError:
            raise at_line(path, number, f"{not_text(line)}.") from None
        except (ValueError, csv.Error) as error:
            raise at_line(path, number, f"{error}.") from None


def _row(fields: Sequence[str]) -> AzureRow:
    """Raises ValueError."""
    if len(fields) != len(AZURE_HEADER):
        raise ValueError(f"there are {len(fields)} fields, not {', '.join(AZURE_HEADER)}")
    num_prompt = _count(AZURE_HEADER[1], fields[1], 1)
    num_output = _count(AZURE_HEADER[2], fields[2], 0)
    return AzureRow(_time_s(fields[0]), num_prompt, num_output)


def _time_s(text: str) -> float:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        example = "2023-11-16 18:15:46.68"
        raise ValueError(f"{AZURE_HEADER[0]} is {text!r}, not a time as {example}") from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _count(name: str, text: str, least: int) -> int:
    try:
        count = int(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}, not a whole number") from None
    if count < least:
        raise ValueError(f"{name} is {count}; it must be at least {least}")
    return count
