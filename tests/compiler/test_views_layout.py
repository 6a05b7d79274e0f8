"""Drawings of any plan: nothing fails, nothing overlaps, everything is inside."""

import itertools
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mserve.compiler.explain import FORMATS
from mserve.compiler.givens import Situation
from mserve.compiler.pipeline import CompiledStrategy
from mserve.compiler.reference import Fact, ReferenceCluster
from mserve.compiler.views.layout import (
    BAR_HEIGHT,
    LABEL_SIZE,
    MARGIN,
    WIDTH,
    Axis,
    Layout,
    cut_text,
    lay_out,
    text_width,
    wrap_text,
)
from mserve.compiler.views.scene import scenes_of
from mserve.compiler.views.subject import Subject, subject_of

Compile = Callable[[str], CompiledStrategy]

POOLS = ("a", "b", "c", "prefill", "a_rather_long_name_for_a_pool_of_workers", "W" * 60)
SECONDS = st.sampled_from([0.0, 0.0, 1e-9, 0.003, 0.3, 40.0, 1e6])


@st.composite
def routes(draw: st.DrawFn) -> str:
    """Up to five ranges over six workers, any of them empty or reused, handoffs and copies."""
    workers = st.sampled_from([f"next({pool})" for pool in POOLS])
    cuts = sorted(draw(st.lists(st.integers(0, 100), max_size=4)))
    steps = []
    for begin, end in itertools.pairwise([0, *cuts]):
        verb, word = draw(st.sampled_from([("compute", "on"), ("reuse", "from")]))
        steps.append(f"{verb} prompt[{begin}%:{end}%] {word} {draw(workers)}")
    if draw(st.booleans()):
        steps.append(f"generate {draw(st.integers(1, 300))} on {draw(workers)}")
    steps.append(f"generate on {draw(workers)}")
    for worker in draw(st.lists(workers, max_size=2, unique=True)):
        steps.append(f"replicate prompt[:{draw(st.integers(1, 100))}%] to {worker}")
    return "\n".join(steps)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    num_tokens = draw(st.sampled_from([1, 2, 50, 4000, 1_000_000]))
    facts: dict[Fact, object] = {("tokens", ()): num_tokens}
    facts[("max_tokens", ())] = draw(st.sampled_from([1, 2, 256, 100_000]))
    for pool in POOLS:
        facts[("cached", (f"{pool}-0",))] = draw(st.integers(0, num_tokens))
        facts[("prefill_backlog", (f"{pool}-0",))] = draw(SECONDS)
    return Situation(ReferenceCluster({pool: (f"{pool}-0",) for pool in POOLS}, facts))


def check_layout(layout: Layout) -> None:
    """No two labels, no two bars meet; all of it is in its lane and on the paper."""
    boxes = []
    for row in layout.rows:
        lane = layout.lanes[row.act.lane]
        words = f"{row.label}  {row.times}" if row.times else row.label
        width = text_width(words, LABEL_SIZE)
        boxes.append((row.label_x, row.label_y - 10, row.label_x + width, row.label_y + 3))
        boxes.append((row.left, row.bar_y, row.right, row.bar_y + BAR_HEIGHT))
        assert row.left <= row.middle <= row.right
        assert lane.top <= row.bar_y <= row.bar_y + BAR_HEIGHT <= lane.bottom
        assert lane.top <= row.label_y - 10 <= row.label_y + 3 <= lane.bottom
    for lane in layout.lanes:
        assert all(text_width(line, LABEL_SIZE) <= layout.name_width for line in lane.lines)
    for left, top, right, bottom in boxes:
        assert layout.axis.left <= left < right <= WIDTH - MARGIN
        assert layout.top <= top < bottom <= layout.bottom
    for one, other in itertools.combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    for arrow in layout.arrows:
        assert arrow.begin_y != arrow.end_y


def check_subject(subject: Subject) -> None:
    for scene in scenes_of(subject):
        check_layout(lay_out(scene, 50))
        assert all(act.lines for act in scene.acts)
        assert len(scene.moves) == sum(act.step.op == "prep_recv" for act in scene.acts)
    for style, render in FORMATS.items():
        text = render(subject)
        assert text.endswith("\n")
        if style == "svg":
            ElementTree.fromstring(text)
            assert "nan" not in text


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(route=routes(), situation=situations())
def test_any_plan_can_be_drawn(compile_text: Compile, route: str, situation: Situation) -> None:
    pools = "\n".join(f"pool {pool}" for pool in POOLS)
    strategy = compile_text(f'strategy any "of them"\n{pools}\nroute r {{\n{route}\n}}')
    check_subject(subject_of(strategy, None))
    check_subject(subject_of(strategy, situation, ("some = thing",)))


def test_steps_stand_right_of_what_they_wait_for(compile_text: Compile) -> None:
    strategy = compile_text(
        """strategy t "" pool a pool b pool c
        route r {
          compute prompt[:30%] on next(a) compute prompt[30%:60%] on next(b) generate on next(c)
        }"""
    )
    (scene,) = scenes_of(subject_of(strategy, None))
    assert scene.lanes == ("next(a)", "next(b)", "next(c)")
    columns = {act.step.id: (act.span.begin, act.span.end) for act in scene.acts}
    assert columns == {
        "s1": (0, 1),
        "s2": (0, 1),
        "s3": (0, 1),
        "s4": (1, 2),
        "s5": (1, 2),
        "s6": (2, 4),
    }


@pytest.mark.parametrize(
    ("bend", "end"), [(0, 0), (0, 1), (0.2, 2.7), (1e-9, 1e6), (3.0, 3.0), (9e5, 1e7)]
)
def test_an_axis_is_monotone_and_its_ticks_have_room(bend: float, end: float) -> None:
    axis = Axis(100, 900, bend, end)
    times = [end * i / 50 for i in range(51)]
    places = [axis.x(time) for time in times]
    assert places == sorted(places)
    assert places[0] == 100
    assert places[-1] == (900 if end else 100)
    ticks = list(axis.ticks())
    assert all(
        x + text_width(words) / 2 < y - text_width(others) / 2 + 1
        for (x, words), (y, others) in itertools.pairwise(ticks)
    )


def test_text_is_cut_to_what_fits() -> None:
    assert cut_text("short", 100) == "short"
    assert cut_text("x" * 100, 100).endswith("x…")
    assert text_width(cut_text("W" * 100, 100)) <= 100
    lines = wrap_text("one two three four five six seven eight", 60, 3)
    assert len(lines) == 3
    assert lines[0] == "one two"
    assert lines[-1].endswith("…")
    assert wrap_text("", 60, 3) == []
    assert wrap_text("a_very_long_name_of_a_pool", 90, 5) == ["a_very_long_", "name_of_a_", "pool"]
    assert "".join(wrap_text("x" * 40, 90, 9)) == "x" * 40
