"""What `mserve verify` says about strategies."""

import json

import pytest

from mserve.compiler import verifier
from mserve.compiler.lower import Shape, make_template
from mserve.compiler.verifier import proof
from mserve.compiler.verifier.explorer import Exploration
from mserve.compiler.verifier.properties import Property
from mserve.compiler.verifier.scene import Scene, scene_of
from mserve.compiler.verifier.shapes import RouteForm, scenes_of
from mserve.compiler.verifier.signals import Kind, Signal
from mserve.compiler.verifier.steps import Move
from mserve.compiler.verifier.story import story
from mserve.runtime.cli import main
from mserve.runtime.cli.strategies import compiled


def _split() -> Scene:
    shape = Shape(((0, 0, 1), (1, 1, 2)), 2, (0, 0), None, ())
    return scene_of(make_template(shape).plan, {})


def test_a_shipped_strategy_is_proved(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "prefill_decode", "--faults", "0"]) == 0
    out = capsys.readouterr().out
    assert "prefill_decode, at most no faults in a run" in out
    assert "proved: route disaggregated, 2 shapes" in out


def test_json_says_what_was_proved(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "handoff", "preble", "--faults", "0", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["strategy"] for each in found] == ["handoff", "preble"]
    assert all(each["proved"] for each in found)


def test_what_is_too_large_is_not_called_proved(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "pipeline_prefill", "--faults", "0", "--states", "20"]) == 1
    assert "not proved: too large" in capsys.readouterr().out


def test_a_file_with_errors_is_not_explored(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "no_such_strategy"]) == 2
    assert "no_such_strategy" in capsys.readouterr().err


def test_a_counterexample_is_printed_as_numbered_sentences(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    strategy = compiled("prefill_decode")
    assert strategy is not None
    broken = Exploration(7, True, Property.END, "nothing more happens", (Move("cancel", -1),))
    monkeypatch.setattr(proof, "_deepened", lambda scene, faults, budget: (broken,))
    found = proof.prove(strategy)
    monkeypatch.setattr(verifier, "prove", lambda *_, **__: found)
    assert main(["verify", "prefill_decode"]) == 1
    out = capsys.readouterr().out
    assert "breaks a rule: every run ends" in out
    assert "  1. The client goes away.\n  2. Nothing more happens." in out


def test_stories_name_actors_and_messages() -> None:
    scene = _split()
    data = Move("late", 0, Signal(Kind.DATA, 0, 1), None)
    moves = (Move("crash", 1), data)
    told = story(scene, Exploration(1, True, Property.KV, "it is bad", moves))
    assert told[0] == "Prefill-0 crashes, and stays away."
    assert told[1].startswith("Decode-0 gets DATA of ticket t1 (second half)")
    assert told[2] == "It is bad."


@pytest.mark.parametrize(
    ("form", "least"),
    [
        (RouteForm(0), 1),
        (RouteForm(1), 2),
        (RouteForm(2), 8),
        (RouteForm(0, has_handoff=True), 2),
        (RouteForm(0, num_replicas=1), 2),
    ],
)
def test_a_route_has_scenes_for_every_coincidence_and_cache(form: RouteForm, least: int) -> None:
    scenes = scenes_of(form)
    assert len(scenes) >= least
    assert len(set(scenes)) == len(scenes)
