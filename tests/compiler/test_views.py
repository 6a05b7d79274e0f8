"""The drawings of plans: complete, well-formed, and what they connect is what the plan connects.

`UPDATE_GOLDEN=1 pytest tests/compiler/test_views.py` writes the golden drawings anew; look at them.
"""

import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mserve.compiler.explain import FORMATS, PlanRequest, plan_view
from mserve.compiler.givens import GivenError
from mserve.compiler.pipeline import CompiledStrategy, compile_strategy
from mserve.compiler.views.quantities import count, duration, size
from mserve.dsl.check import check_text
from mserve.runtime.cli import main
from mserve.runtime.cli.language import PLAN_FORMATS

Compile = Callable[[str], CompiledStrategy]

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
EVERYTHING = """
strategy moves "everything a route can do"
pool a
pool b
pool c
let x = argmin(load(w) for w in a)
route all when cached(x) > 100 {
  reuse prompt[:30%] from x
  compute prompt[30%:60%] on next(b)
  compute rest on x
  generate 8 on next(c)
  generate on x
  replicate prompt[:1000] to next(b)
}
route plain { generate on x }
"""
SITUATION = PlanRequest(
    givens=["tokens(prompt) = 4000", "cached(a[0]) = 1500", "prefill_backlog(b[0]) = 20ms"]
)
STEPS = {f"s{number}" for number in range(1, 16)}


def shipped(name: str) -> CompiledStrategy:
    path = f"{name}.mserve"
    return compile_strategy(check_text(files("mserve.strategies").joinpath(path).read_text(), path))


def drawing(strategy: CompiledStrategy, asked: PlanRequest) -> ElementTree.Element:
    return ElementTree.fromstring(plan_view(strategy, asked, "svg"))


def by_class(root: ElementTree.Element, class_: str) -> list[ElementTree.Element]:
    return [each for each in root.iter() if class_ in each.get("class", "").split()]


def title(element: ElementTree.Element) -> str:
    return element.findtext(f"{SVG}title") or ""


# --- all formats -------------------------------------------------------------------------------


def test_the_command_offers_the_formats_there_are() -> None:
    assert tuple(FORMATS) == PLAN_FORMATS


@pytest.mark.parametrize("style", PLAN_FORMATS)
def test_every_step_occurs_in_every_format(compile_text: Compile, style: str) -> None:
    strategy = compile_text(EVERYTHING)
    for asked in (PlanRequest(), SITUATION):
        text = plan_view(strategy, asked, style).replace("r0_", "")
        assert set(re.findall(r"\bs\d+\b", text)) >= STEPS


@pytest.mark.parametrize("style", PLAN_FORMATS)
def test_without_a_route_the_request_waits(compile_text: Compile, style: str) -> None:
    text = plan_view(compile_text(EVERYTHING), PlanRequest(cluster=["a = 0"]), style)
    assert "no route is possible" in text or '"plan": null' in text


@pytest.mark.parametrize("style", PLAN_FORMATS)
def test_a_bad_situation_is_a_sentence_in_every_format(compile_text: Compile, style: str) -> None:
    strategy = compile_text(EVERYTHING)
    with pytest.raises(GivenError, match="there is no pool 'd'"):
        plan_view(strategy, PlanRequest(cluster=["d = 2"]), style)
    if style != "text":
        with pytest.raises(GivenError, match="only without a situation, and as text"):
            plan_view(strategy, PlanRequest(after="cut_segments"), style)


def test_the_command_writes_a_file_or_says_why_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["plan", "balanced", "--format", "svg", "-o"]
    assert main([*asked, str(tmp_path / "plan.svg")]) == 0
    assert (tmp_path / "plan.svg").read_text("utf-8").startswith("<svg")
    assert main([*asked, str(tmp_path)]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert main(["plan", "balanced", "--format", "html", "--given", "load(decode[7]) = 2s"]) == 2
    assert "there is no worker decode[7]" in capsys.readouterr().err


GOLDEN = {
    ROOT / "docs" / "images" / "balanced.svg": (
        "balanced",
        PlanRequest(givens=["tokens(prompt) = 4000"]),
    ),
    ROOT / "tests" / "golden" / "views" / "prefill_decode.svg": ("prefill_decode", PlanRequest()),
}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_drawing_is_the_golden_one(path: Path) -> None:
    name, asked = GOLDEN[path]
    text = plan_view(shipped(name), asked, "svg")
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


# --- svg ---------------------------------------------------------------------------------------


def test_hovering_shows_the_step_and_its_line(compile_text: Compile) -> None:
    root = drawing(compile_text(EVERYTHING), SITUATION)
    steps = {each.get("data-step"): title(each) for each in by_class(root, "step")}
    assert steps["s6"].splitlines() == [
        "s6 remote_send on b[0]",
        "compute and send [1200, 2400)",
        "20 ms to 82.7 ms",
        "on the critical path to the first token",
        "<text>:9: compute prompt[30%:60%] on next(b)",
    ]
    labels = {title(each) for each in by_class(root, "label")}
    assert set(steps.values()) <= labels, "a label says the same as its bar"


def test_arrows_connect_the_lanes_of_sender_and_receiver(compile_text: Compile) -> None:
    panel = drawing(compile_text(EVERYTHING), SITUATION)
    bands = [
        (float(band.get("y", "")), float(band.get("y", "")) + float(band.get("height", "")))
        for band in by_class(panel, "lane")
    ]
    names = ["".join(each.itertext()) for each in by_class(panel, "worker")]
    found = {}
    for arrow in by_class(panel, "arrow"):
        source, target = int(arrow.get("data-from", "")), int(arrow.get("data-to", ""))
        shaft, head = (each.get("d", "") for each in arrow.findall(f"{SVG}path"))
        assert bands[source][0] < _height(shaft) < bands[source][1]
        assert bands[target][0] < _height(head) < bands[target][1]
        found[arrow.get("data-ticket")] = (names[source], names[target])
        assert f"from {names[source]} to {names[target]}" in title(arrow)
    assert found == {
        "t1": ("a[0]", "b[0]"),
        "t2": ("a[0]", "c[0]"),
        "t3": ("b[0]", "a[0]"),
        "t4": ("b[0]", "c[0]"),
        "t5": ("a[0]", "c[0]"),
        "t6": ("c[0]", "a[0]"),
        "t7": ("c[0]", "b[0]"),
    }


def _height(path: str) -> float:
    """Of the point at which a path begins."""
    return float(re.findall(r"-?[\d.]+", path)[1])


def test_tokens_and_bytes_are_those_that_really_move(compile_text: Compile) -> None:
    asked = PlanRequest(givens=[*SITUATION.givens, "cached(c[0]) = 200"])
    text = plan_view(compile_text(EVERYTHING), asked, "svg")
    assert "receive KV of 1,200 tokens (150 MiB) from a[0]" in text
    assert "receive KV of 1,000 tokens (125 MiB) from a[0]" in text  # less what c[0] has


def test_the_critical_path_is_heavy(compile_text: Compile) -> None:
    root = drawing(compile_text(EVERYTHING), SITUATION)
    heavy = {
        each.get("data-step")
        for each in by_class(root, "step")
        if any(part.get("class") == "outline critical" for part in each)
    }
    assert heavy == {"s4", "s6", "s7", "s8", "s9"}  # b[0] is busy: nothing waits for a[0]'s part


def test_a_busy_worker_is_seen_to_be_busy(compile_text: Compile) -> None:
    root = drawing(compile_text(EVERYTHING), SITUATION)
    assert len(by_class(root, "busy")) == 2  # the bar and the legend
    assert not by_class(drawing(compile_text(EVERYTHING), PlanRequest()), "busy")


def test_nothing_is_loaded_from_elsewhere(compile_text: Compile) -> None:
    for style in ("svg", "html"):
        text = plan_view(compile_text(EVERYTHING), SITUATION, style)
        assert not re.findall(r"<script|<link|<img|@import|src=|url\((?!#)", text)
        links = set(re.findall(r'https?://[^"\s<]*', text))
        assert links == {"http://www.w3.org/2000/svg"}


def test_above_the_drawing_stands_the_decision_and_why() -> None:
    asked = PlanRequest(cluster=["workers = 1"], givens=["load(workers[0]) = 5s"])
    root = drawing(shipped("migration"), asked)
    words = [" ".join("".join(each.itertext()).split()) for each in root.iter(f"{SVG}text")]
    for row in (
        ["given", "workers = 1, load(workers[0]) = 5s"],
        ["let", "home = workers[0]", "argmax(cached(w) for w in workers)"],
        ["route", "move: passed over", "ttft(move) < ttft(stay) does not hold (5.061s < 5.061s)"],
        ["route", "stay: taken", "it has no guard"],
    ):
        start = words.index(row[1])
        assert words[start - 1 : start - 1 + len(row)] == row
    assert "critical path: what the first token waits for" in words


def test_above_the_symbols_stands_what_they_are() -> None:
    root = drawing(shipped("balanced"), PlanRequest())
    words = ["".join(each.itertext()) for each in root.iter(f"{SVG}text")]
    assert words[2:8] == [
        *("param", "tail = 10%", "0% to 90%"),
        *("let", "p = argmin(load(w) for w in prefill)", "let"),
    ]
    assert words.count("first token") == 2  # in either route


# --- html --------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """Checks that what is opened is closed; keeps rows and marked lines as text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._open: list[str] = []
        self.rows: list[list[str]] = []
        self.marked: list[str] = []
        self._in_mark = False
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("meta", "br"):
            return
        self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")
        if tag == "li":
            self._in_mark = dict(attrs).get("class") is not None
            self.marked += [""] * self._in_mark

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Of the SVG: empty."""

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self._open:
            self.rows[-1][-1] += data
        if self._open[-2:] == ["li", "code"] and self._in_mark:
            self.marked[-1] += data


def test_the_page_has_the_decision_and_marks_the_route() -> None:
    givens = ["tokens(prompt) = 4000", "cached(workers[0]) = 3000", "load(workers[0]) = 5s"]
    asked = PlanRequest(cluster=["workers = 2"], givens=givens)
    page = _Page(plan_view(shipped("migration"), asked, "html"))
    assert ["home", "argmax(cached(w) for w in workers)", "workers[0]"] in page.rows
    assert [
        "move",
        "when ttft(move) < ttft(stay)",
        "taken",
        "81.1ms < 5.064s",
        "first token 81.1 ms",
    ] in page.rows
    assert ["stay", "otherwise", "not tried", "", "first token 5.06 s"] in page.rows
    assert page.marked[0].startswith("route move")
    assert page.marked[-1] == "}"


def test_the_page_over_symbols_has_every_route(compile_text: Compile) -> None:
    page = _Page(plan_view(compile_text(EVERYTHING), PlanRequest(), "html"))
    assert ["x", "argmin(load(w) for w in a)"] in page.rows
    assert [row[0] for row in page.rows if row and re.fullmatch(r"s\d+", row[0])] == [
        *(f"s{number}" for number in range(1, 16)),
        "s1",
    ]
    assert page.marked == []


def test_the_page_spells_params_as_the_language_does() -> None:
    page = _Page(plan_view(shipped("balanced"), PlanRequest(params=["tail = 20%"]), "html"))
    assert ["tail", "20%", "0% to 90%"] in page.rows


# --- escaping ----------------------------------------------------------------------------------

HOSTILE = """
strategy bad "</style><script>alert(1)</script> & ]]> %% # ; end -->"
# a comment with \x07 and ]]> in it
pool workers
route odd when header("x") == "<b>&amp; \\"; %% end" { # </pre><script>
  compute prompt[:50%] on sticky("]]> <i> & ; # %%", workers)   # </title><script>\x07
  generate on next(workers)
}
route plain { generate on next(workers) }
"""


@pytest.fixture
def hostile(compile_text: Compile) -> CompiledStrategy:
    return compile_text(HOSTILE)


def test_svg_and_html_hold_any_text(hostile: CompiledStrategy) -> None:
    root = drawing(hostile, PlanRequest())
    assert any("]]> <i> & ;" in title(each) for each in by_class(root, "step"))
    text = plan_view(hostile, PlanRequest(), "html")
    assert "<script" not in text
    _Page(text)


def test_mermaid_holds_any_text(hostile: CompiledStrategy, compile_text: Compile) -> None:
    words = r"(?:[^#;:%<>\n]|#\d+;)+"
    statement = re.compile(
        rf"\s*(sequenceDiagram|title {words}|participant \w+( as {words})?"
        rf"|Note over \w+(,\w+)?: {words}"
        rf"|\w+--?>>\w+: {words}|(alt|else) {words}|end)"
    )
    for strategy in (hostile, compile_text(EVERYTHING)):
        for line in plan_view(strategy, PlanRequest(), "mermaid").splitlines():
            assert statement.fullmatch(line), line


def test_dot_holds_any_text(hostile: CompiledStrategy, compile_text: Compile) -> None:
    for strategy in (hostile, compile_text(EVERYTHING)):
        text = plan_view(strategy, PlanRequest(), "dot")
        bare = re.sub(r'"(?:[^"\\\n]|\\.)*"', '""', text)
        assert bare.count("{") == bare.count("}")
        for line in bare.splitlines()[1:]:
            assert re.fullmatch(
                r'\s*(\}|rankdir=LR;|subgraph \w+ \{|label="";|\w+( -> \w+)? \[[\w=", ]+\];)', line
            ), line


# --- numbers -----------------------------------------------------------------------------------


def test_numbers_read_well() -> None:
    times = [0, 4e-5, 0.0123, 0.22, 0.99996, 2.774, 119, 300, float("inf")]
    words = ["0 ms", "0.04 ms", "12.3 ms", "220 ms", "1 s", "2.77 s", "119 s", "5 min", "never"]
    assert [duration(time) for time in times] == words
    sizes = [0, 131072, 3600 * 131072, 1000 * 1024, 1023 * 2**20, 5000 * 2**30]
    assert [size(each) for each in sizes] == [
        "0 B", "128 KiB", "450 MiB", "1000 KiB", "1023 MiB", "5,000 GiB"
    ]  # fmt: skip
    assert (count(1, "token"), count(3600, "token")) == ("1 token", "3,600 tokens")


def test_a_handoff_to_the_same_worker_is_none(compile_text: Compile) -> None:
    strategy = compile_text(
        'strategy t "" pool a let x = next(a) route r { generate 8 on x generate on x }'
    )
    text = plan_view(strategy, PlanRequest(), "text")
    assert text.count("start_generate") == 1
    assert "to x" not in text
