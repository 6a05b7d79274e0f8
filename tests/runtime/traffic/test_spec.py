"""What an operator writes becomes traffic, or a sentence on what is wrong with it."""

from pathlib import Path

import pytest

from mserve.runtime.traffic.arrivals import TrafficError
from mserve.runtime.traffic.spec import GENERATORS, TrafficOptions, traffic
from mserve.runtime.traffic.traces import ReadOptions
from mserve.runtime.traffic.workloads import PREBLE, long_and_short, poisson, sharing


def test_poisson() -> None:
    found = list(traffic("poisson:rate=5.6, input=3000, output=100, num=20, cv=2, block=512"))
    asked = poisson(
        rate=5.6, num_prompt=3000, num_output=100, num=20, variation=2, block_tokens=512
    )
    assert found == list(asked)


def test_mix() -> None:
    found = list(traffic("mix:rate=2,num=20,share=0.5,long=100,short=9,output=3"))
    lengths = {"num_long": 100, "num_short": 9, "num_output": 3}
    assert found == list(long_and_short(rate=2, num=20, share_long=0.5, **lengths))


@pytest.mark.parametrize("name", PREBLE)
def test_preble(name: str) -> None:
    found = list(traffic(f"preble-{name}:rate=2,num=20,zipf=1.1,seed=3"))
    assert found == list(sharing(PREBLE[name], rate=2, num=20, zipf=1.1, seed=3))


def test_a_seed_from_elsewhere_gives_way_to_the_texts_own() -> None:
    assert list(traffic("mix:rate=2,num=5,seed=4")) == list(traffic("mix:rate=2,num=5", seed=4))
    own, other = traffic("mix:rate=2,num=5,seed=4", seed=9), traffic("mix:rate=2,num=5", seed=9)
    assert list(own) != list(other)


def test_a_path(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"at_s": 1, "num_prompt": 100, "num_output": 2}\n')
    (found,) = traffic(str(path), ReadOptions())
    assert (found.at_s, found.num_prompt, found.num_output) == (1, 100, 2)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("poison:rate=2", "There is no traffic 'poison'; did you mean 'poisson'?"),
        ("preble-toolbnch:rate=2", "did you mean 'preble-toolbench'"),
        ("poisson:rat=2", "poisson has no setting 'rat'; did you mean 'rate'?"),
        ("mix:frobnicate=2", "mix has no setting 'frobnicate'; it has rate, num, seed, cv, block"),
        ("poisson:rate=2,input=3", r"poisson: output is missing: add output=\.\.\."),
        ("poisson", "poisson: rate is missing"),
        ("poisson:rate=0,input=3,output=1", "poisson: rate is '0'; it must be above 0"),
        ("poisson:rate=fast,input=3,output=1", "rate is 'fast', not a number"),
        ("poisson:rate=2,input=3.5,output=1", "input is '3.5', not a whole number"),
        ("mix:rate=2,share=5", "share is '5'; it must be at most 1"),
        ("poisson:rate=inf,input=3,output=1", "rate is 'inf'; it must be at most 1,000,000"),
        ("poisson:rate", "Settings of poisson are KEY=VALUE, not 'rate'"),
        ("poisson:rate=", "Settings of poisson are KEY=VALUE, not 'rate='"),
        ("poisson:rate=1,rate=2", "poisson is given 'rate' twice"),
        ("nothing", "Traffic is a trace's path or one of poisson, mix, preble-toolbench"),
        ("nothing.jsonl", "The trace 'nothing.jsonl' cannot be read: No such file"),
        ("no/where", "The trace 'no/where' cannot be read: No such file"),
    ],
)
def test_what_is_wrong_is_said(text: str, problem: str) -> None:
    with pytest.raises(TrafficError, match=problem):
        traffic(text)


@pytest.mark.parametrize("name", GENERATORS)
def test_every_generator_runs_with_few_settings(name: str) -> None:
    few = "rate=2,input=9,output=2" if name == "poisson" else "rate=2"
    found = list(traffic(f"{name}:{few},num=7"))
    assert len(found) == 7


@pytest.mark.parametrize(
    ("trace", "limit", "most"),
    [
        ("mix:rate=2,num=9", None, 9),
        ("mix:rate=2,num=9", 5, 5),
        ("mix:rate=2", None, 1000),
        ("trace.jsonl", 7, 7),
        ("trace.jsonl", None, None),
    ],
)
def test_how_many_requests_there_can_be(trace: str, limit: int | None, most: int | None) -> None:
    assert TrafficOptions(trace, limit=limit).most_requests == most
