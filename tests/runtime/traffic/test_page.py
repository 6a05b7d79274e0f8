"""The page is whole, loads nothing, and draws what the runs are."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser

import pytest

from mserve.runtime.traffic.charts import WIDTH, Axis, Line, line_chart
from mserve.runtime.traffic.outcomes import Goals, Outcome
from mserve.runtime.traffic.page import arrival_rate, distribution, running, write_page

VOID = {"meta"}


class Reader(HTMLParser):
    """Checks that elements nest, and keeps what is in them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def run(*, slow: float = 1.0, num: int = 50) -> list[Outcome]:
    return [
        Outcome(n * 0.5, n * 0.5 + slow * (1 + n / num), n * 0.5 + slow * 4, 100, 20, route="a")
        for n in range(num)
    ]


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open
    return reader


def test_the_page_is_well_formed_and_loads_nothing() -> None:
    runs = {"balanced": run(), "<b>&\x00": run(slow=2)}
    page = write_page("A </title> & more", runs, Goals(ttft_s=1.5), ["note <1>"])
    reader = read(page)
    assert "A </title> & more" in reader.words
    assert "<b>&\ufffd" in reader.words
    assert "note <1>" in reader.words
    names = {name for name, _ in reader.attributes}
    assert not names & {"src", "href", "xlink:href", "onload", "action"}
    assert set(re.findall(r"url\(([^)]*)", page)) <= {
        f"#{value}" for name, value in reader.attributes if name == "id"
    }
    assert not re.search(r"https?://|@import|<script", page)
    assert "prefers-color-scheme:dark" in page


def test_every_run_is_in_every_chart() -> None:
    reader = read(write_page("t", {"a": run(), "b": run(slow=2), "c": run(slow=3)}))
    assert reader.counts["polyline"] == 3 * 5
    assert reader.words.count("a") > 3


def test_the_goal_is_drawn_and_the_winner_marked() -> None:
    page = write_page("t", {"a": run(), "b": run(slow=2)}, Goals(ttft_s=1.5))
    assert page.count('class="mark"') == 1
    assert 'class="best"' in page
    assert 'class="best"' not in write_page("t", {"a": run()})


@pytest.mark.parametrize(
    "outcomes", [[], [Outcome(0.0, None, 0.0, 1, 0, error="x")], run(num=1)[:1]]
)
def test_runs_with_little_to_draw(outcomes: Sequence[Outcome]) -> None:
    read(write_page("t", {"a": outcomes}, Goals(tpot_s=1.0)))


def test_a_distribution_goes_from_the_least_to_the_greatest() -> None:
    points = distribution([1.0, 2.0, 3.0])
    assert (points[0], points[100], points[-1]) == ((1.0, 0.0), (2.0, 0.5), (3.0, 1.0))


def test_requests_under_way_are_counted_on_average() -> None:
    whole = Outcome(0.0, 1.0, 10.0, 1, 2)
    half = Outcome(5.0, 6.0, 10.0, 1, 2)
    short = Outcome(2.01, 2.02, 2.06, 1, 2)  # half of a bin of 0.1 s
    means = [value for _, value in running([whole, half, short], 10.0)[::2]]
    expected = [1.0] * 20 + [1.5] + [1.0] * 29 + [2.0] * 50
    assert means == pytest.approx(expected)


def test_arrivals_are_counted_per_second() -> None:
    points = arrival_rate(run(), 25.0)
    assert sum(value for _, value in points[::2]) * 0.25 == pytest.approx(50)


def test_what_lies_beyond_an_axis_is_cut_off() -> None:
    x, y = Axis("x", 10.0, str), Axis("y", 1.0, str)
    chart = line_chart("t", [Line("l", [(0.0, 0.0), (20.0, 1.0)], 0)], x, y)
    line = chart.find("polyline")
    assert line is not None
    assert float(line.attrib["points"].split(" ")[1].split(",")[0]) > WIDTH
    assert line.attrib["clip-path"] == "url(#clip-t)"


def test_ticks_are_round() -> None:
    assert list(Axis("", 10.0, str).ticks()) == [0, 2, 4, 6, 8, 10]
    assert list(Axis("", 0.7, str).ticks()) == pytest.approx([0, 0.2, 0.4, 0.6])
