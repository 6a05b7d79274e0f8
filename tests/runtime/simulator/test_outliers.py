"""Which requests of a run are worth a question."""

from mserve.runtime.simulator.outliers import Outliers, outlier_facts, outliers
from mserve.runtime.traffic.outcomes import Outcome


def outcome(ttft_s: float, jct_s: float, error: str = "") -> Outcome:
    return Outcome(1.0, None if error else 1.0 + ttft_s, 1.0 + jct_s, 100, 10, error=error)


RUN = [
    outcome(0.5, 1.0),
    outcome(2.0, 2.5),
    outcome(0, 9.0, "worker_lost_error"),
    outcome(0.25, 4.0),
    outcome(0.5, 2.5),
]


def test_the_worst_come_first_and_who_failed_is_not_slow() -> None:
    assert outliers(RUN) == Outliers(failed=(2,), latest=(1, 0, 4, 3), longest=(3, 1, 4, 0))


def test_few_are_named() -> None:
    found = outliers([*RUN, *RUN])
    assert [len(found.failed), len(found.latest), len(found.longest)] == [2, 5, 5]


def test_they_are_named_with_what_is_wrong_with_them() -> None:
    assert dict(outlier_facts(RUN)) == {
        "unserved": "request 2 (worker_lost_error); --why 2 says why",
        "slow start": "requests 1 (2.00 s), 0 (500 ms), 4 (500 ms), 3 (250 ms); --why 1 says why",
        "slow end": "requests 3 (4.00 s), 1 (2.50 s), 4 (2.50 s), 0 (1.00 s); --why 3 says why",
    }
    assert list(outlier_facts([])) == []


def test_of_each_kind_of_failure_the_first_says_what_was_said() -> None:
    late = Outcome(0.0, None, 60.0, 10, 0, error="unavailable_error")
    large = Outcome(0.0, None, 0.1, 10, 0, error="request_too_large")
    failures = {0: "It has 9 tokens; the model takes 8.", 1: "No token came within 60 s.", 2: "x"}
    first, second = (
        words for name, words in outlier_facts([large, late, large], failures) if name == "failure"
    )
    assert first == "request_too_large, as of request 0: It has 9 tokens; the model takes 8."
    assert second == "unavailable_error, as of request 1: No token came within 60 s."
