"""The page of a sweep has a chart with a line for each strategy, and the same figures as a table."""

import re

from mserve.runtime.traffic.curves import Swept
from mserve.runtime.traffic.outcomes import Goals, Outcome, Summary, summarize
from mserve.runtime.traffic.page import About
from mserve.runtime.traffic.report import Compared, compared
from mserve.runtime.traffic.sweep_page import write_sweep_page

GOALS = Goals(ttft_s=0.5, tpot_s=None, jct_s=None)
NAMES = ["one <1>", "two"]
KEYS = [("goodput", "share"), ("time to first token", "p99")]


def run(ttft_s: float | None) -> Summary:
    error = "" if ttft_s is not None else "unavailable_error"
    return summarize([Outcome(0.0, ttft_s, 1.0, 10, 5, error=error)], GOALS)


def page(*ttfts_s: tuple[float | None, float | None]) -> str:
    """Of both strategies, by value."""
    by_value = [
        {(each.group, each.name): each for each in compared([run(one), run(two)], GOALS)}
        for one, two in ttfts_s
    ]
    figures: dict[tuple[str, str], list[Compared | None]] = {
        key: [found.get(key) for found in by_value] for key in KEYS
    }
    values = [str(20 * (index + 1)) for index in range(len(ttfts_s))]
    about = About(notes=["A note."], settings={"GPU": "h100"}, command="mserve compare")
    swept = Swept("rate", values)
    return write_sweep_page("By load", NAMES, swept, figures, ["The answer."], about, 0.9)


def test_a_chart_and_a_table_for_each_figure() -> None:
    text = page((0.1, 0.2), (0.4, 0.9))
    assert re.findall(r'<svg class="chart" [^>]*aria-label="([^"]*)"', text) == [
        "goodput, share by rate",
        "time to first token, p99 by rate",
    ]
    lines = re.findall(r'<polyline class="line line-(\w+)"', text)
    assert lines == ["every", "0", "1", "0", "1"], "the level of goodput, and the strategies"
    values = re.findall(r'data-value="([^"]*)"', text)
    assert values == ["1.0", "1.0", "1.0", "0.0", "0.1", "0.4", "0.2", "0.9"]
    assert "one &lt;1&gt;" in text
    assert "<1>" not in text


def test_the_answer_stands_first_and_the_command_last() -> None:
    text = page((0.1, 0.2), (0.4, 0.9))
    places = [
        text.index(each) for each in ("h100", "The answer.", "A note.", "<svg class", "<code>")
    ]
    assert places == sorted(places)


def test_a_value_that_nobody_knows_is_left_out() -> None:
    text = page((0.1, 0.2), (0.4, None), (None, None))
    dots = re.findall(r'<circle class="dot line-(\d)"', text)
    assert dots == [*"000111", *"001"]
    assert text.count("<td>-</td>") == 3
