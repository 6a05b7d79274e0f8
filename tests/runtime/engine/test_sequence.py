"""When an answer ends."""

from array import array

from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.messages import Sampling

PROMPT = range(30)


def test_a_form_ends_an_answer_before_min_tokens() -> None:
    """The sampler lets an end through only where the form is complete."""
    sampling = Sampling(max_tokens=8, min_tokens=5, grammar="a form")
    sequence = Sequence("k", array("i", [*PROMPT, 7]), len(PROMPT), sampling=sampling)
    assert sequence.finish_reason(frozenset({7}), 1000) == "stop"
    sequence.tokens[-1] = 8
    assert sequence.finish_reason(frozenset({7}), 1000) is None
