"""Whether seeds change anything."""

import json
from pathlib import Path

import pytest

from mserve.runtime.traffic.chance import has_chance, what_seeds_change
from mserve.runtime.traffic.spec import TrafficOptions


@pytest.mark.parametrize(
    ("trace", "expected"),
    [
        ("poisson:rate=5,input=100,output=10,num=3", True),
        ("poisson:rate=5,input=100,output=10,num=3,cv=0", False),
        ("poisson:rate=5,input=100,output=10,num=3,seed=7", False),
        ("preble-toolbench:rate=5,num=20,cv=0", True),
    ],
)
def test_made_up_traffic_has_chance_unless_it_is_taken_out(trace: str, expected: bool) -> None:
    assert has_chance(TrafficOptions(trace)) is expected


def test_a_trace_with_exact_times_has_none(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
    )
    assert not has_chance(TrafficOptions(str(path)))
    assert what_seeds_change(str(path)) == "its arrivals have exact times"


def test_mooncakes_ticks_are_spread(tmp_path: Path) -> None:
    path = tmp_path / "mooncake.jsonl"
    line = {"timestamp": 3000, "input_length": 6, "output_length": 5, "hash_ids": [1]}
    path.write_text(f"{json.dumps(line)}\n" * 3)
    assert has_chance(TrafficOptions(str(path)))
    assert "tick of 3 s" in what_seeds_change(str(path))


def test_what_is_made_up_anew_needs_no_words() -> None:
    assert what_seeds_change("poisson:rate=5,input=100,output=10") == ""
