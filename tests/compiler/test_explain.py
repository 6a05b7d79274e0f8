"""`mserve plan`: what a reader and a program get to see."""

import json
from collections.abc import Callable

import pytest

from mserve.compiler.explain import PlanRequest, plan_json, plan_text
from mserve.compiler.givens import GivenError
from mserve.compiler.pipeline import CompiledStrategy

Compile = Callable[[str], CompiledStrategy]

STRATEGY = """
strategy moves "everything a route can do"
param k = 8 in 1..100
pool a
pool b
pool c
let x = argmin(load(w) for w in a)
route all when cached(x) > 100 {
  reuse prompt[:30%] from x
  compute prompt[30%:60%] on next(b)
  compute rest on x
  generate k on next(c)
  generate on x
  replicate prompt[:1000] to next(b)
}
route plain { generate on x }
"""


def test_a_strategy_over_symbols(compile_text: Compile) -> None:
    assert (
        plan_text(compile_text(STRATEGY), PlanRequest())
        == """\
strategy moves: everything a route can do
  param  k = 8  (1 to 100)
  pool   a (1 worker)
  pool   b (1 worker)
  pool   c (1 worker)
  let    x = argmin(load(w) for w in a)

route all  when cached(x) > 100
  next(b)
    s1  prep_recv       [0, min(30%, cached(x))) as t1
    s6  remote_send     [min(30%, cached(x)), 60%) to t3 (x), t4 (next(c)) with t1
    s12 prep_recv       [0, 1000) as t7
    s14 commit          t7 after s13
  next(c)
    s2  prep_recv       [0, min(30%, cached(x))) as t2
    s5  prep_recv       [min(30%, cached(x)), 60%) as t4
    s7  prep_recv       [60%, n - 1) as t5
    s9  start_generate  [n - 1, n), then to n + k - 1 with t2, t4, t5
    s11 remote_send     [0, n + k - 1) to t6 (x) after s9.first_token
    s13 remote_send     [0, 1000) to t7 (next(b)) after s9.first_token
  x
    s3  remote_send     [0, min(30%, cached(x))) to t1 (next(b)), t2 (next(c))
    s4  prep_recv       [min(30%, cached(x)), 60%) as t3
    s8  remote_send     [60%, n - 1) to t5 (next(c)) with t3 after s3
    s10 prep_recv       [0, n + k - 1) as t6
    s15 start_generate  [n + k - 1, ...) with t6 after s9

route plain  otherwise
  x
    s1  start_generate  [0, n)
"""
    )


def test_what_a_pass_leaves(compile_text: Compile) -> None:
    strategy = compile_text(STRATEGY)
    after_cut = plan_text(strategy, PlanRequest(after="cut_segments"))
    assert "  [60%, n - 1) on x\n  [n - 1, n) on next(c)\n" in after_cut
    unshared = plan_text(strategy, PlanRequest(after="derive_transfers"))
    assert (
        unshared.count("remote_send") == plan_text(strategy, PlanRequest()).count("remote_send") + 2
    )
    with pytest.raises(GivenError, match="the passes are: cut_segments, drop_empty"):
        plan_text(strategy, PlanRequest(after="nothing"))


SPLIT = """
strategy split ""
pool p
pool d
let x = argmin(load(w) for w in d)
route cached when cached(x) > 100 { generate on x }
route split { compute prompt[:60%] on next(p)  generate on x }
"""


def test_a_decision_in_a_situation(compile_text: Compile) -> None:
    asked = PlanRequest(cluster=["d = 2"], givens=["tokens(prompt) = 4000", "load(d[0]) = 1s"])
    text = plan_text(compile_text(SPLIT), asked)
    assert (
        text
        == """\
strategy split, a prompt of 4000 tokens
  let    x = d[1]
  route  cached: its guard does not hold
  route  split: taken

plan of route split
  d[1]
    s1  prep_recv       [0, 2400) as t1
    s3  start_generate  [2400, 4000) with t1
  p[0]
    s2  remote_send     [0, 2400) to t1 (d[1])

predicted with the cost profile reference-8b: first token at 220.0 ms
  p[0]  s2  |======================                  |  0.0 ms to 123.6 ms
  d[1]  s3  |                      ==================|  123.6 ms to 2,770.0 ms
"""
    )


def test_no_route(compile_text: Compile) -> None:
    text = plan_text(compile_text(SPLIT), PlanRequest(cluster=["d = 0"]))
    assert "let    x = missing" in text
    assert "route  split: something it needs is missing" in text
    assert text.endswith("no route is possible: the request waits\n")


def test_json(compile_text: Compile) -> None:
    strategy = compile_text(SPLIT)
    symbolic = json.loads(plan_json(strategy, PlanRequest()))
    steps = symbolic["routes"][1]["steps"]
    assert [step["op"] for step in steps] == ["prep_recv", "remote_send", "start_generate"]
    assert steps[1]["end"] == "60%"
    assert steps[1]["worker"] == "next(p)"
    decided = json.loads(plan_json(strategy, PlanRequest(givens=["tokens(prompt) = 4000"])))
    assert decided["guards"][1] == {"route": "split", "holds": True}
    assert decided["plan"]["steps"][1]["end"] == 2400
    assert decided["timeline"]["first_token_s"] == pytest.approx(0.22)
    nowhere = json.loads(plan_json(strategy, PlanRequest(cluster=["d = 0"])))
    assert nowhere["plan"] is None


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (PlanRequest(givens=["load(d[0]) ="]), "cannot read `given load"),
        (PlanRequest(cluster=["x = 2"]), "there is no pool 'x'"),
        (PlanRequest(params=["y = 2"]), "'y' is neither a binding"),
        (PlanRequest(cluster=["d = 1"], after="cut_segments"), "only without a situation"),
    ],
)
def test_mistakes_are_sentences(compile_text: Compile, asked: PlanRequest, sentence: str) -> None:
    with pytest.raises(GivenError, match=sentence.replace("(", r"\(")):
        plan_text(compile_text(SPLIT), asked)
