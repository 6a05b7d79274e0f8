"""The page is whole, loads nothing, answers first, and shows what the runs are."""

import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser

import pytest

from mserve.runtime.traffic.charts import Mark
from mserve.runtime.traffic.curves import Swept
from mserve.runtime.traffic.lanes import KINDS, Lane, LanePool, Lanes
from mserve.runtime.traffic.outcomes import Goals, Outcome, summarize
from mserve.runtime.traffic.page import OTHER_TRAFFIC, About, write_page
from mserve.runtime.traffic.report import compared, run_json

VOID = {"meta"}
LOADING = {"src", "href", "xlink:href", "srcset", "data", "action", "poster", "background"}
Attributes = dict[str, str | None]


class Reader(HTMLParser):
    """Checks that elements nest and ids are unique, and keeps what is in them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, Attributes]] = []
        self.words: list[str] = []
        self.cells: dict[tuple[str, str, str], Attributes] = {}  # by title, row and column
        self._title, self._row = "", ""
        self._columns: list[str] = []  # that have a name
        self._index = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._columns = []
        if tag == "td" and self._index < len(self._columns):
            self.cells[self._title, self._row, self._columns[self._index]] = dict(attrs)
            self._index += 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if "h3" in self.open:
            self._title = data
        elif "thead" in self.open:
            self._columns.append(data)
        elif "th" in self.open:
            self._row, self._index = data, 0

    @property
    def ids(self) -> list[str | None]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    def tags(self, name: str) -> list[Attributes]:
        return [attributes for tag, attributes in self.elements if tag == name]


def run(*, slow: float = 1.0, num: int = 50) -> list[Outcome]:
    return [
        Outcome(
            n * 0.5, n * 0.5 + slow * (1 + n / num), n * 0.5 + slow * 4, 100, 20, max_gap_s=0.25
        )
        for n in range(num)
    ]


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open
    assert len(reader.ids) == len(set(reader.ids))
    return reader


def swept(num: int) -> tuple[dict[str, list[Outcome]], About]:
    values = [f"{n}%" for n in range(num)]
    runs = {f"tail={value}": run(slow=1 + n) for n, value in enumerate(values)}
    return runs, About(swept=Swept("tail", values))


# --- the document -------------------------------------------------------------------------------


def everything() -> str:
    runs = {"balanced": run(), "<b>&\x00": run(slow=2)}
    about = About(
        notes=["note <1>"],
        settings={"GPU": "h100 & more"},
        command="mserve compare 'a b' --slo ttft=1s <x>",
        facts={"balanced": [("pool", "decode: 1 worker")]},
        events=[Mark(3.0, "kill </svg>")],
    )
    return write_page("A </title> & more", runs, Goals(ttft_s=1.5), about)


def test_the_page_holds_any_text() -> None:
    words = read(everything()).words
    for expected in ("A </title> & more", "<b>&\ufffd", "note <1>", "h100 & more", "kill </svg>"):
        assert expected in words
    assert "mserve compare 'a b' --slo ttft=1s <x>" in words
    assert "decode: 1 worker" in words


@pytest.mark.parametrize("page", [everything(), write_page("t", swept(9)[0], None, swept(9)[1])])
def test_the_page_loads_nothing(page: str) -> None:
    reader = read(page)
    names = {name for _, attributes in reader.elements for name in attributes}
    assert not names & LOADING
    assert not any(name.startswith("on") for name in names)
    assert set(re.findall(r"url\(([^)]*)", page)) <= {f"#{each}" for each in reader.ids}
    assert not re.search(r"https?://|//\w|@import|<(script|link|img|iframe|object|use)\b", page)
    assert "prefers-color-scheme:dark" in page


@pytest.mark.parametrize(
    "outcomes", [[], [Outcome(0.0, None, 0.0, 1, 0, error="x")], run(num=1)[:1]]
)
def test_runs_with_little_to_draw(outcomes: Sequence[Outcome]) -> None:
    read(write_page("t", {"a": outcomes}, Goals(tpot_s=1.0)))
    read(write_page("t", {"a": outcomes, "b": run()}, Goals(tpot_s=1.0)))


def test_a_long_run_makes_no_longer_page() -> None:
    short, long = (write_page("t", {"a": run(num=num), "b": run(num=num)}) for num in (50, 5000))
    assert len(long) < 1.5 * len(short) < 300_000


def test_many_runs_stay_below_a_megabyte() -> None:
    runs, about = swept(40)
    assert len(write_page("t", runs, None, about)) < 1_000_000


# --- the answer ---------------------------------------------------------------------------------


def test_the_winner_comes_first_with_how_much_it_is_ahead() -> None:
    page = write_page("t", {"a": run(slow=2), "b": run()})
    words = read(page).words
    answer = next(text for text in words if "has the best" in text)
    assert answer.startswith("b has the best time to first token")
    assert "50% less than a (2.98 s)" in words
    assert page.index(answer) < page.index(">Figures<")


def test_a_single_run_begins_with_its_figures() -> None:
    reader = read(write_page("t", {"a": run()}, Goals(ttft_s=1.5)))
    summary = summarize(run(), Goals(ttft_s=1.5))
    assert summary.goodput is not None
    assert summary.ttft is not None
    tiles = [each for each in reader.tags("dd") if each.get("class") == "value"]
    assert tiles[0]["data-value"] == repr(summary.goodput.share)
    assert tiles[1]["data-value"] == repr(summary.ttft.p50)
    assert "Which is best" not in reader.words


def test_runs_with_other_requests_are_not_passed_off_as_equal() -> None:
    assert OTHER_TRAFFIC in read(write_page("t", {"a": run(), "b": run(num=49)})).words
    assert OTHER_TRAFFIC not in read(write_page("t", {"a": run(), "b": run(slow=2)})).words


def test_a_sweep_has_each_figure_over_its_param() -> None:
    runs, about = swept(3)
    reader = read(write_page("t", runs, None, about))
    charts = [each["aria-label"] for each in reader.tags("svg") if "aria-label" in each]
    assert "job completion time by tail" in charts
    assert reader.words.count("tail = 1%") == 5  # four times and the throughput
    assert {"0%", "1%", "2%"} <= set(reader.words)


# --- figures ------------------------------------------------------------------------------------


def numbers_of(runs: Mapping[str, Sequence[Outcome]], goals: Goals) -> dict[str, dict[str, float]]:
    """Of the runs' JSON, by title and column."""
    titles = {
        "ttft": "time to first token",
        "tpot": "time per output token",
        "jct": "job completion time",
        "max_gap": "longest pause",
    }
    found: dict[str, dict[str, float]] = {}
    for name, outcomes in runs.items():
        figures = run_json(outcomes, goals)
        for field, title in titles.items():
            for statistic, value in figures[field].items():
                found.setdefault(f"{title}, {statistic}", {})[name] = value
        found.setdefault("throughput, requests", {})[name] = figures["request_rate"]
        found.setdefault("throughput, output tokens", {})[name] = figures["output_rate"]
        found.setdefault("requests, all", {})[name] = figures["num_requests"]
        found.setdefault("requests, prompt cached", {})[name] = figures["cached_share"]
    return found


def test_numbers_are_those_of_the_json() -> None:
    runs, goals = {"a": run(), "b": run(slow=2.3)}, Goals(ttft_s=1.5)
    reader = read(write_page("t", runs, goals))
    expected = numbers_of(runs, goals)
    shown = {
        (f"{title}, {column}", row): float(attributes["data-value"] or "")
        for (title, row, column), attributes in reader.cells.items()
        if "data-value" in attributes and not title.startswith("goodput")
    }
    assert len(shown) == 2 * (3 * 4 + 2 + 2 + 3)
    for (title, row), value in shown.items():
        if title != "requests, failed":
            assert value == expected[title][row], title


def test_the_goal_is_drawn_and_the_winner_marked() -> None:
    runs = {"a": run(), "b": run(slow=2)}
    page = write_page("t", runs, Goals(ttft_s=1.5))
    assert page.count('class="mark"') == 1
    assert "goal 1.50 s" in read(page).words
    cells = read(page).cells
    assert cells["time to first token", "a", "p99"]["class"] == "best"
    assert cells["time to first token", "a", "p50"]["title"] == "1.49 s"
    assert "class" not in cells["time to first token", "b", "p99"]
    assert 'class="best"' not in write_page("t", {"a": run()})


def test_an_axis_goes_to_a_goal_that_is_not_far() -> None:
    assert write_page("t", {"a": run()}, Goals(ttft_s=4.0)).count('class="mark"') == 1
    assert write_page("t", {"a": run()}, Goals(ttft_s=40.0)).count('class="mark"') == 0


def test_figures_over_seeds_replace_those_of_the_first() -> None:
    figures = compared([summarize(run(slow=3)), summarize(run(slow=4))])
    about = About(figures=figures, further={"a": run(slow=100)})
    page = write_page("t", {"a": run(), "b": run()}, None, about)
    value = read(page).cells["job completion time", "a", "mean"]["data-value"]
    assert float(value or "") == pytest.approx(12.0)
    assert "100% of requests within" in page
    assert "400 s  a" in page  # the slowest of the other seed


# --- charts -------------------------------------------------------------------------------------


def test_every_run_is_in_every_chart_and_named_there() -> None:
    names = ["first", "second", "third"]
    runs = {name: run(slow=n + 1) for n, name in enumerate(names)}
    page = write_page("t", runs)
    lines = re.findall(r"<polyline[^>]*><title>([^<]*)</title></polyline>", page)
    # Four times and the requests under way; arrivals are the same for all of them.
    assert sorted(lines) == sorted([*names * 5, "every run"])
    assert len(read(page).tags("polyline")) == len(lines)


def test_every_line_has_a_sample_beside_its_name() -> None:
    runs, about = swept(3)
    for page in (write_page("t", runs, None, about), everything()):
        lines = set(re.findall(r'<polyline class="(line line-[\w-]+)"', page))
        samples = set(re.findall(r'<line class="(line line-[\w-]+)"', page))
        assert lines == samples


def test_hovering_shows_the_values() -> None:
    page = write_page("t", {"a": run(), "b": run(slow=2)})
    words = read(page).words
    at = words.index("50% of requests within")
    assert words[at + 1 : at + 3] == ["1.49 s  a", "2.98 s  b"]
    assert "0 ms to 500 ms" in words


def test_workers_of_runs_share_an_axis_and_a_legend() -> None:
    def worked(end_s: float) -> Lanes:
        busy_s = {kind: [0.5] * 20 for kind in KINDS}
        lane = Lane("w-<0>", busy_s, [Mark(2.0, "kill")], [(2.0, 3.0)])
        return Lanes([LanePool("w: 1 worker", [lane])], 1.0, end_s, end_s)

    runs = {"a": run(), "b": run(slow=2)}
    page = write_page("t", runs, None, About(lanes={"a": worked(20), "b": worked(40)}))
    reader = read(page)
    assert set(re.findall(r'fill="url\(#([^)]*)\)"', page)) <= set(reader.ids)
    assert [reader.words.count(words) for words in (*KINDS.values(), "dead")] == [1] * 4
    assert reader.words.count("40 s") == 2, "in both charts, though one run ends sooner"
    assert "w-<0>" in reader.words
    assert "Workers" not in read(write_page("t", runs)).words


def test_events_are_marked_where_load_is_drawn() -> None:
    page = write_page("t", {"a": run()}, None, About(events=[Mark(10.0, "kill decode-1")]))
    assert read(page).words.count("kill decode-1") == 2
    assert page.count('class="mark"') == 2
