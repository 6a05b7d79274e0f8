"""Rules about tests in the language: the cluster they describe exists and can be so."""

from mserve.dsl.diagnostics import Diagnostic, Label, Severity
from mserve.dsl.syntax import Span


def test_unknown_worker(span: Span, worker: str, size: int, declared: Span | None) -> Diagnostic:
    """A test names a worker that its cluster does not have.

    What it does: compares positions with the sizes that `cluster` gives the pools (those not
    listed have their setting `workers`, or one); positions count from 0.

    Why it is wrong: what is given for the worker would be ignored, and nothing expected of it could
    ever happen.

    Example:

        cluster workers = 2
        given load(workers[2]) = 5s

    Use instead:

        cluster workers = 3
        given load(workers[2]) = 5s
    """
    labels = [Label(span)] if declared is None else [Label(span), Label(declared, "its size")]
    pool = worker.partition("[")[0]
    count = "1 worker" if size == 1 else f"{size} workers"
    index = int(worker.partition("[")[2].rstrip("]"))
    return Diagnostic(
        "test-unknown-worker",
        f"there is no `{worker}`: pool `{pool}` has {count} in this test",
        tuple(labels),
        help=f"positions count from 0; for more workers write `cluster {pool} = {index + 1}`",
    )


def test_proves_nothing(span: Span) -> Diagnostic:
    """A test expects nothing.

    What it does: warns of a test without `expect`.

    Why it is wrong: it passes whatever the strategy does, and makes its route look tested.

    Example:

        test "long prompts" {
          given tokens(prompt) = 9000
        }

    Use instead:

        test "long prompts" {
          given tokens(prompt) = 9000
          expect route split
        }
    """
    return Diagnostic(
        "test-proves-nothing",
        "this test expects nothing, so it always passes",
        (Label(span),),
        help="say what should come of it: `expect route NAME`",
        severity=Severity.WARNING,
    )


def test_inconsistent_given(span: Span, message: str, other: Span | None, help: str) -> Diagnostic:
    """A test gives values that cannot be.

    What it does: reports a value that is given twice, a negative length or time, a share above 1,
    and a cached prefix longer than the prompt (1000 tokens where its length is not given).

    Why it is wrong: the test would show what happens in a situation that never arises.

    Example:

        given tokens(prompt) = 1000, cached(workers[0]) = 3000

    Use instead:

        given tokens(prompt) = 4000, cached(workers[0]) = 3000
    """
    labels = [Label(span)] if other is None else [Label(span), Label(other, "given here")]
    return Diagnostic("test-inconsistent-given", message, tuple(labels), help)
