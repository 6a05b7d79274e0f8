"""`mserve plan`: what a reader and a program get to see."""

import json
import re
from collections.abc import Callable

import pytest

from mserve.compiler.explain import PlanRequest, plan_text, plan_view
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
  s1  next(b)  prep_recv       [0, min(30%, cached(x))) as t1
  s2  next(c)  prep_recv       [0, min(30%, cached(x))) as t2
  s3  x        remote_send     [0, min(30%, cached(x))) to t1 (next(b)), t2 (next(c))
  s4  x        prep_recv       [min(30%, cached(x)), 60%) as t3
  s5  next(c)  prep_recv       [min(30%, cached(x)), 60%) as t4
  s6  next(b)  remote_send     [min(30%, cached(x)), 60%) to t3 (x), t4 (next(c)) with t1
  s7  next(c)  prep_recv       [60%, n - 1) as t5
  s8  x        remote_send     [60%, n - 1) to t5 (next(c)) with t3 after s3
  s9  next(c)  start_generate  [n - 1, n), then to n + k - 1 with t2, t4, t5
  s10 x        prep_recv       [0, n + k - 1) as t6
  s11 next(c)  remote_send     [0, n + k - 1) to t6 (x) after s9.first_token
  s12 next(b)  prep_recv       [0, 1000) as t7
  s13 next(c)  remote_send     [0, 1000) to t7 (next(b)) after s9.first_token
  s14 next(b)  commit          t7 after s13
  s15 x        start_generate  [n + k - 1, ...) with t6 after s9

route plain  otherwise
  s1  x  start_generate  [0, n)

[a, b) is from token a up to, but without, b; n is the prompt's length, ratios are of it
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
  route  cached: passed over, cached(x) > 100 does not hold (0 > 100)
  route  split: taken, it has no guard

plan of route split
  s1  d[1]  prep_recv       [0, 2400) as t1
  s2  p[0]  remote_send     [0, 2400) to t1 (d[1], 300 MiB)
  s3  d[1]  start_generate  [2400, 4000) with t1

predicted with the cost profile reference-8b: first token after 220 ms
  s2  p[0]  |######################                  |  0 ms to 123.6 ms
  s3  d[1]  |                      ##################|> 123.6 ms to 2.77 s
  # critical path: what the first token waits for
  bars end at the first token; > goes on after it
"""
    )


BARS = """
strategy bars ""
pool a
pool b
let x = argmin(load(w) for w in a)
let y = argmin(load(w) for w in b)
route copy {
  reuse prompt[:10%] from y
  compute prompt[10%:50%] on x
  generate on y
  replicate prompt to x
}
"""


def test_bars_tell_what_is_critical_what_is_busy_and_what_comes_later(
    compile_text: Compile,
) -> None:
    givens = ["tokens(prompt) = 4000", "cached(b[0]) = 400", "prefill_backlog(a[0]) = 200ms"]
    text = plan_text(compile_text(BARS), PlanRequest(givens=givens))
    assert (
        text[text.index("predicted") :]
        == """\
predicted with the cost profile reference-8b: first token after 399.9 ms
  s2  b[0]  |=                                       |  0 ms to 3.1 ms
      a[0]  |....................                    |  busy with earlier prompts for 200 ms
  s4  a[0]  |                    ########            |  200 ms to 282.4 ms
  s5  b[0]  |                            ############|> 282.4 ms to 2.95 s
  s7  b[0]  |                                        |> 399.9 ms to 421.9 ms
  s8  a[0]  |                                        |> 421.9 ms to 421.9 ms
  # critical path: what the first token waits for   = other steps   . earlier prompts
  bars end at the first token; > goes on after it
"""
    )


def test_no_route(compile_text: Compile) -> None:
    text = plan_text(compile_text(SPLIT), PlanRequest(cluster=["d = 0"]))
    assert "let    x = missing" in text
    assert "route  split: passed over, x is missing" in text
    assert text.endswith("no route is possible: the request waits\n")


def test_json(compile_text: Compile) -> None:
    strategy = compile_text(SPLIT)
    symbolic = json.loads(plan_view(strategy, PlanRequest(), "json"))
    steps = symbolic["routes"][1]["steps"]
    assert [step["op"] for step in steps] == ["prep_recv", "remote_send", "start_generate"]
    assert steps[1]["end"] == "60%"
    assert steps[1]["worker"] == "next(p)"
    decided = json.loads(plan_view(strategy, PlanRequest(givens=["tokens(prompt) = 4000"]), "json"))
    assert decided["guards"] == [
        {
            "route": "cached",
            "holds": False,
            "because": "cached(x) > 100 does not hold (0 > 100)",
        },
        {"route": "split", "holds": True, "because": "it has no guard"},
    ]
    assert decided["plan"]["steps"][1]["end"] == 2400
    assert decided["timeline"]["first_token_s"] == pytest.approx(0.22)
    nowhere = json.loads(plan_view(strategy, PlanRequest(cluster=["d = 0"]), "json"))
    assert nowhere["plan"] is None


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (PlanRequest(givens=["load(d[0]) ="]), "--given `load(d[0]) =`: it ends too early"),
        (PlanRequest(cluster=["x = 2"]), "there is no pool 'x'"),
        (PlanRequest(params=["y = 2"]), "there is no param 'y'"),
        (PlanRequest(cluster=["d = 1"], after="cut_segments"), "only without a situation"),
    ],
)
def test_mistakes_are_sentences(compile_text: Compile, asked: PlanRequest, sentence: str) -> None:
    with pytest.raises(GivenError, match=re.escape(sentence)):
        plan_text(compile_text(SPLIT), asked)
