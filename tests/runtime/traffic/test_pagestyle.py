"""Every line has a colour on light and dark paper, and no two of them look alike."""

import re

import pytest

from mserve.runtime.traffic.pagestyle import page_style
from mserve.runtime.traffic.report import STATISTICS


def looks(css: str, style: str) -> tuple[str, ...]:
    """Its colours, light and dark, and its dashes."""
    return (
        *re.findall(rf"\.line-{style}\{{stroke:(#\w+)\}}", css),
        *re.findall(rf"\.line-{style}:not\(\.dot\)\{{stroke-dasharray:([^}}]+)\}}", css),
    )


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("is_ordered", [False, True])
@pytest.mark.parametrize("num", [1, 2, 8, 9, 40])
def test_no_two_lines_look_alike(num: int, is_ordered: bool) -> None:
    css = page_style(num, is_ordered=is_ordered)
    found = [looks(css, str(index)) for index in range(num)]
    assert all(len(each) == 3 for each in found)
    assert len(set(found)) == num
    assert len({looks(css, statistic) for statistic in STATISTICS}) == len(STATISTICS)


@pytest.mark.parametrize("is_ordered", [False, True])
def test_lines_stand_out_from_the_paper(is_ordered: bool) -> None:
    css = page_style(8, is_ordered=is_ordered)
    for style in (*map(str, range(8)), *STATISTICS):
        light, dark, _ = looks(css, style)
        assert contrast(light, "#ffffff") >= 3, style
        assert contrast(dark, "#0d1117") >= 3, style


def test_kinds_of_work_stand_out_from_the_paper() -> None:
    css = page_style(1, is_ordered=False)
    for kind in ("prefill", "decode", "moves"):
        light, dark = re.findall(rf"\.kind-{kind}\{{--kind:(#\w+)\}}", css)
        assert contrast(light, "#ffffff") >= 3, kind
        assert contrast(dark, "#0d1117") >= 3, kind


def test_a_ramp_goes_from_light_to_dark() -> None:
    css = page_style(6, is_ordered=True)
    for paper in (0, 1):
        lights = [luminance(looks(css, str(index))[paper]) for index in range(6)]
        assert lights == sorted(lights, reverse=True)
        assert lights[0] > lights[-1] + 0.2
