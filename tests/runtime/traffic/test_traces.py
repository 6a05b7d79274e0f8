"""Every format is recognised and read, and what is wrong with a line is said with its number."""

import gzip
from itertools import pairwise
from pathlib import Path

import pytest

from mserve.runtime.traffic.arrivals import Arrival, TrafficError
from mserve.runtime.traffic.traces import ReadOptions, detected, read_trace, write_trace

MOONCAKE = """\
{"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}
{"timestamp": 3000, "input_length": 512, "output_length": 0, "hash_ids": [0]}
{"timestamp": 3000, "input_length": 700, "output_length": 7, "hash_ids": [0, 2], "type": "chat"}

{"timestamp": 6001, "input_length": 1, "output_length": 1, "hash_ids": [3]}
"""
AZURE = """\
TIMESTAMP,ContextTokens,GeneratedTokens\r
2023-11-16 18:15:46.6805900,374,44\r
2023-11-16 18:15:50.9951690,96,109"""
OWN = """\
{"at_s": 0.5, "num_prompt": 100, "num_output": 3, "blocks": [7, 8], "block_tokens": 64}
{"at_s": 0.5, "num_prompt": 10, "num_output": 1, "session": "a"}
"""


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "trace"


def read(path: Path, text: str | bytes, **options: float) -> list[Arrival]:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return list(read_trace(path, options=ReadOptions(**options)))  # type: ignore[arg-type]  # a seed is an int


def test_mooncake(trace: Path) -> None:
    found = read(trace, MOONCAKE)
    assert detected(trace) == "mooncake"
    assert [(a.num_prompt, a.num_output) for a in found] == [(600, 5), (512, 1), (700, 7), (1, 1)]
    assert [a.blocks for a in found] == [(0, 1), (0,), (0, 2), (3,)]
    assert {a.block_tokens for a in found} == {512}


def test_mooncakes_ticks_are_spread_in_order_by_the_seed(trace: Path) -> None:
    times = [a.at_s for a in read(trace, MOONCAKE)]
    assert all(before < after for before, after in pairwise(times))
    assert times[2] < 3 < 3.001 <= times[3] < 6.001
    assert times == [a.at_s for a in read(trace, MOONCAKE)]
    assert times != [a.at_s for a in read(trace, MOONCAKE, seed=1)]
    assert [a.at_s for a in read(trace, MOONCAKE, tick_s=0)] == pytest.approx([0, 0, 0, 3.001])


def test_requests_of_a_long_tick_are_uniform(trace: Path) -> None:
    line = '{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [0]}\n'
    times = [a.at_s for a in read(trace, line * 3000)]
    for third in range(3):
        assert sum(third <= at_s < third + 1 for at_s in times) == pytest.approx(1000, abs=100)


def test_ticks_that_are_short_do_not_overtake_the_next(trace: Path) -> None:
    line = '{"timestamp": %d, "input_length": 1, "output_length": 1, "hash_ids": [0]}\n'
    times = [a.at_s for a in read(trace, "".join(line % (at // 50 * 30) for at in range(500)))]
    assert times == sorted(times)
    assert all(0 <= at_s - i // 50 * 0.03 < 0.03 for i, at_s in enumerate(times[:450]))


def test_azure(trace: Path) -> None:
    found = read(trace, AZURE)
    assert detected(trace) == "azure"
    assert [(a.num_prompt, a.num_output) for a in found] == [(374, 44), (96, 109)]
    assert [a.at_s for a in found] == pytest.approx([0, 4.314579])
    assert found[0].block_tokens == 64
    assert not set(found[0].blocks) & set(found[1].blocks)


def test_azure_with_time_zones(trace: Path) -> None:
    header = AZURE.splitlines()[0]
    rows = "2024-05-10 00:00:01.5+00:00,3,0\n2024-05-10 02:00:03.5+02:00,3,2"
    assert [a.at_s for a in read(trace, f"{header}\n{rows}")] == [0, 2]


def test_our_own(trace: Path) -> None:
    first, second = read(trace, OWN)
    assert detected(trace) == "mserve"
    assert first == Arrival(0.5, 100, 3, (7, 8), 64)
    assert (second.num_prompt, second.session, len(second.blocks)) == (10, "a", 1)


def test_what_is_written_is_read(trace: Path, tmp_path: Path) -> None:
    found = read(trace, MOONCAKE)
    copy = tmp_path / "copy"
    assert write_trace(found, copy) == 4
    assert list(read_trace(copy)) == found


def test_a_byte_order_mark_does_not_matter(trace: Path) -> None:
    assert read(trace, b"\xef\xbb\xbf" + MOONCAKE.encode()) == read(trace, MOONCAKE)


def test_reading_streams(trace: Path) -> None:
    trace.write_text(MOONCAKE + MOONCAKE.splitlines()[-1].replace("6001", "9000") + "\nbroken")
    assert next(read_trace(trace)).num_prompt == 600


@pytest.mark.parametrize("line_number", [2, 5])
def test_a_broken_line_is_told_by_its_number(trace: Path, line_number: int) -> None:
    lines = MOONCAKE.splitlines()
    lines[line_number - 1] = '{"timestamp": 3000, "input_'
    with pytest.raises(
        TrafficError,
        match=rf"trace, line {line_number}: it is no JSON, as it ends too soon, with .*input_.*Mend",
    ):
        read(trace, "\n".join(lines))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("512", "-1", "line 2: input_length is -1; it must be at least 1. Mend"),
        ("512", '"many"', "line 2: input_length is 'many', not a whole number"),
        ("[0]}", "[0, 9]}", "line 2: 512 prompt tokens in blocks of 512 need 1 ids, not 2"),
        ('"hash_ids": [0]', '"hashes": [0]', "line 2: hash_ids is missing"),
        ("[0, 1]", '[0, "x"]', r"line 1: hash_ids\[1\] is 'x', not a whole number"),
        ('5, "hash', '5 "hash', "line 1: it is no JSON: .* at '\"hash_ids\": .*, after '.*: 5 '"),
        ("6001", "2000", "line 5: it is 1 s earlier than the line before it. Sort the trace"),
    ],
)
def test_what_mooncakes_lines_may_lack(trace: Path, old: str, new: str, problem: str) -> None:
    with pytest.raises(TrafficError, match=problem):
        read(trace, MOONCAKE.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (",96,", ",", "line 3: there are 2 fields, not TIMESTAMP, ContextTokens, GeneratedTokens"),
        (",96,", ",x,", "line 3: ContextTokens is 'x', not a whole number. Mend"),
        (",96,", ",0,", "line 3: ContextTokens is 0; it must be at least 1"),
        (",109", ",-1", "line 3: GeneratedTokens is -1; it must be at least 0"),
        ("18:15:50", "yesterday", "line 3: TIMESTAMP is '.*yesterday.*', not a time as 2023"),
        ("18:15:50", "18:15:40", "line 3: it is 5.68542 s earlier"),
        ("ContextTokens", "Context", "line 1: the header of Azure's traces is TIMESTAMP,Context"),
    ],
)
def test_what_azures_rows_may_lack(trace: Path, old: str, new: str, problem: str) -> None:
    with pytest.raises(TrafficError, match=problem):
        read(trace, AZURE.replace(old, new, 1))


def test_bytes_that_are_no_text(trace: Path) -> None:
    with pytest.raises(TrafficError, match="line 2: it is no text in UTF-8"):
        read(trace, AZURE.splitlines()[0].encode() + b"\n\xff\xfe,1,1")
    with pytest.raises(TrafficError, match="line 3: it is no text in UTF-8"):
        read(trace, OWN.encode() + b'{"session": "\xff"}')


def test_our_own_format_takes_no_unknown_field(trace: Path) -> None:
    with pytest.raises(
        TrafficError, match=r"line 2: there is no field 'sesion' \(did you mean 'session'\?\)"
    ):
        read(trace, OWN.replace("session", "sesion"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", r"is empty: it must hold one request a line \(docs"),
        ("\n \n", "is empty"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "holds no request"),
        ("hello\n", "line 1: this is no trace"),
        ("\x00\x01", "is a binary file: a trace is text, with one request a line"),
        ('{"at_s": 1', "line 1: it is no JSON, as it ends too soon"),
        ('[{"conversations": []}]', r"jq -c '.\[\]'"),
        ('\n{"a": 1}', "line 2: no known trace has these fields"),
        (
            '{"timestamp": 1, "input_length": 2, "hash_ids": []}',
            "line 1: a trace of the format 'mooncake' would have output_length here, too",
        ),
    ],
)
def test_what_is_no_trace(trace: Path, text: str, problem: str) -> None:
    with pytest.raises(TrafficError, match=problem):
        read(trace, text)


def test_a_missing_file_is_told_at_once(trace: Path) -> None:
    with pytest.raises(TrafficError, match="cannot be read: No such file"):
        read_trace(trace)
    with pytest.raises(TrafficError, match="is a folder: name a file in it"):
        read_trace(trace.parent, "mooncake")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (gzip.compress(OWN.encode()), "is packed with gzip: unpack it with `gunzip -k .*trace`"),
        (b"\x28\xb5\x2f\xfd\0\0", "is packed with zstd: unpack it with `unzstd"),
        (OWN.encode("utf-16"), "is text in UTF-16: save it as UTF-8"),
        (b"PAR1\x15\x04\0\0", "is a binary file"),
    ],
)
def test_what_is_no_text(trace: Path, content: bytes, problem: str) -> None:
    with pytest.raises(TrafficError, match=problem):
        read(trace, content)


def test_a_format_can_be_named(trace: Path) -> None:
    trace.write_text(MOONCAKE)
    assert len(list(read_trace(trace, "mooncake"))) == 4
    with pytest.raises(TrafficError, match="did you mean 'mooncake'"):
        read_trace(trace, "moncake")
    with pytest.raises(TrafficError, match="line 1: there is no field 'timestamp'"):
        list(read_trace(trace, "mserve", ReadOptions()))
