"""Lanes are as high as the work in them, say so in words, too, and stay small."""

import re
from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element, tostring

import pytest

from mserve.runtime.traffic.charts import LEFT, RIGHT, WIDTH, Mark
from mserve.runtime.traffic.lanes import KINDS, Lane, LanePool, Lanes, lane_chart, lane_legend

NOTHING = {kind: [0.0] * 8 for kind in KINDS}
ROOM = WIDTH - LEFT - RIGHT


def lane(name: str = "w-0", **busy_s: Sequence[float]) -> Lane:
    return Lane(name, {**NOTHING, **busy_s})


def lanes(*each: Lane, end_s: float = 8.0, span_s: float = 8.0) -> Lanes:
    return Lanes([LanePool("pool", each)], 1.0, end_s, span_s)


def drawn(chart: Element) -> Mapping[str, str]:
    """Paths by kind."""
    paths = (path for path in chart.iter("path") if path.get("fill"))
    return {path.attrib["class"].removeprefix("area area-"): path.attrib["d"] for path in paths}


def heights(path: str, top: float = 42) -> set[float]:
    """Shares that it goes to or from."""
    upright = [*re.findall(r"V([\d.]+)", path), *re.findall(r"M[\d.]+,([\d.]+)", path)]
    return {round(1 - (float(y) - top) / 26, 2) for y in upright}


def texts(chart: Element, kind: str) -> list[str | None]:
    return [text.text for text in chart.iter("text") if text.get("class") == kind]


def readings(chart: Element) -> list[list[str | None]]:
    """The time, then each lane."""
    groups = [group for group in chart.iter("g") if group.get("class") == "reading"]
    return [
        [
            *(text.text for text in group.findall("text[@class='head']")),
            *(span.text for span in group.iter("tspan")),
        ]
        for group in groups
    ]


def test_a_bin_is_as_high_as_its_share() -> None:
    chart = lane_chart("t", lanes(lane(prefill=[0.5] * 8)), 8.0)
    assert heights(drawn(chart)["prefill"]) == {0.5, 0.0}
    assert drawn(chart).keys() == {"prefill"}


def test_kinds_are_stacked() -> None:
    chart = lane_chart("t", lanes(lane(prefill=[0.25] * 8, decode=[0.5] * 8)), 8.0)
    assert heights(drawn(chart)["prefill"]) == {0.25, 0.0}
    assert heights(drawn(chart)["decode"]) == {0.75, 0.25}
    ends = [float(x) for x in re.findall(r"[MH]([\d.]+)", drawn(chart)["decode"])]
    assert (min(ends), max(ends)) == (LEFT, WIDTH - RIGHT)


def test_the_last_bin_is_what_there_is_of_it() -> None:
    busy = [0.0] * 7 + [0.25]
    chart = lane_chart("t", lanes(lane(decode=busy), end_s=7.5, span_s=7.5), 7.5)
    assert heights(drawn(chart)["decode"]) == {0.5, 0.0}
    assert texts(chart, "at-rest")[0] == "3.3% decode"


def test_a_run_that_ends_sooner_than_others_is_idle_from_then_on() -> None:
    chart = lane_chart("t", lanes(lane(decode=[1.0] * 8)), 16.0)
    ends = [float(x) for x in re.findall(r"H([\d.]+)", drawn(chart)["decode"])]
    assert LEFT + ROOM / 2 in ends
    assert readings(chart)[0][1] == "100.0% decode"
    assert readings(chart)[-1][1] == "idle"


def test_shares_of_the_whole_stand_beside_the_names() -> None:
    both = lane("a", prefill=[0.4] * 8, decode=[0.5] * 8)
    chart = lane_chart("t", lanes(both, lane("b"), lane("c", prefill=[1.0] * 8)), 8.0)
    assert texts(chart, "name") == ["a", "b", "c"]
    assert texts(chart, "at-rest")[:3] == [
        "90.0% busy: 40.0% prefill, 50.0% decode",
        "idle",
        "100.0% prefill",
    ]
    assert "a 90.0% busy: 40.0% prefill, 50.0% decode; b idle" in (chart.findtext("desc") or "")


def test_faults_are_marked_and_the_dead_are_shaded() -> None:
    marks = [Mark(2.0, "kill"), Mark(6.0, "restart"), Mark(6.1, "kill"), Mark(9.0, "late")]
    died = Lane("w", NOTHING, marks, [(2.0, 6.0), (6.1, float("inf"))])
    chart = lane_chart("t", lanes(died), 8.0)
    assert sum(line.get("class") == "mark" for line in chart.iter("line")) == 3
    assert texts(chart, "label") == ["kill", "kill"], "of those that have room"
    shaded = [each for each in chart.iter("rect") if each.get("class") == "area area-dead"]
    assert [float(each.attrib["width"]) for each in shaded] == pytest.approx(
        [ROOM / 2, ROOM * 1.9 / 8], abs=0.1
    )
    assert [each[1] for each in readings(chart)] == [
        "idle",
        "idle",
        "dead, kill",
        "dead",
        "dead",
        "dead",
        "idle, restart, kill",
        "dead",
    ]
    assert "kill at 2.00 s" in (chart.findtext("desc") or "")


def test_hovering_shows_every_lane() -> None:
    first = lane("a", prefill=[0.25, *[0.0] * 7], decode=[0.5] * 8)
    found = readings(lane_chart("t", lanes(first, lane("b")), 8.0))
    assert found[0] == ["0 ms to 1.00 s", "75.0% busy: 25.0% prefill, 50.0% decode", "idle"]
    assert found[1] == ["1.00 s to 2.00 s", "50.0% decode", "idle"]
    assert len(found) == 8


def test_a_reading_is_over_all_of_its_bins() -> None:
    busy = {**{kind: [0.0] * 128 for kind in KINDS}, "decode": [1.0, 0.0] * 64}
    found = readings(lane_chart("t", lanes(Lane("a", busy), end_s=127.5), 127.5))
    assert found[0] == ["0 ms to 3.00 s", "66.7% decode"]
    assert found[-1] == ["126 s to 128 s", "66.7% decode"]


def test_the_legend_names_what_there_is() -> None:
    def words(*each: Lane) -> list[str | None]:
        parent = Element("div")
        lane_legend(parent, [lanes(*each)])
        return [svg.tail for svg in parent.iter("svg")]

    assert words(lane(prefill=[1.0] * 8)) == [KINDS["prefill"]]
    died = Lane("b", NOTHING, dead=[(1.0, 2.0)])
    assert words(lane(decode=[1.0] * 8), died) == [KINDS["decode"], "dead"]


def test_pools_are_apart() -> None:
    pools = [LanePool("one", [lane("a"), lane("b")]), LanePool("two", [lane("c")])]
    chart = lane_chart("t", Lanes(pools, 1.0, 8.0, 8.0), 8.0)
    assert texts(chart, "pool") == ["one", "two"]
    rows = [
        text.attrib["y"] for text in chart.iter("text") if text.get("class") in ("pool", "name")
    ]
    assert len(set(rows)) == 5


def test_sixteen_lanes_stay_small() -> None:
    restless = {"prefill": [0.3, 0.6] * 64, "decode": [0.1, 0.35] * 64, "moves": [0.05, 0.01] * 64}
    every = [Lane(f"workers-{n}", restless) for n in range(16)]
    chart = lane_chart("t", lanes(*every, end_s=128.0), 128.0)
    assert len(tostring(chart)) < 250_000
