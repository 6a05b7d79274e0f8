"""What a decision keeps of its choices: the best candidates, with the summands of their values."""

from collections.abc import Callable

from mserve.compiler.givens import situation_from_text
from mserve.compiler.pipeline import CompiledStrategy

Compile = Callable[[str], CompiledStrategy]


def test_a_decision_says_what_its_choices_compared(compile_text: Compile) -> None:
    strategy = compile_text("""
    strategy t ""
    pool a
    def cost(w) = load(w) + prefill_time(1000, w)
    let quiet = argmin(cost(w) for w in a)
    route r { generate on quiet }
    """)
    situation = situation_from_text(strategy, ["a = 3"], ["load(a[0]) = 2s", "load(a[2]) = 1s"])
    decision = strategy.decide(situation.cluster)
    assert decision is not None
    (choice,) = decision.choices
    assert (choice.let, choice.num_candidates) == ("quiet", 3)
    assert choice.terms == ("load(w)", "prefill_time(1000, w)")
    assert [each.worker for each in choice.candidates] == ["a-1", "a-2", "a-0"]
    first, second, third = choice.candidates
    assert [each.terms[0] for each in choice.candidates] == [0.0, 1.0, 2.0]
    assert all(each.value == sum(each.terms) for each in choice.candidates)
    assert first.terms[1] == second.terms[1] == third.terms[1] > 0


def test_only_the_best_candidates_are_kept_and_the_chosen_one_first(compile_text: Compile) -> None:
    strategy = compile_text("""
    strategy t ""
    pool a { workers = 20 }
    let most = argmax(load(w) for w in a)
    route r { generate on most }
    """)
    decision = strategy.decide(situation_from_text(strategy, [], ["load(a[7]) = 2s"]).cluster)
    assert decision is not None
    (choice,) = decision.choices
    assert (len(choice.candidates), choice.num_candidates) == (8, 20)
    assert choice.candidates[0].worker == "a-7"
