"""The exhaustive check of a plan's executions: every state that faults can lead to, without running any.

`compiler/verify.py` looks at a plan standing still; this package at everything it may do.
"""

from mserve.compiler.verifier.proof import Counterexample, Proof, RouteProof, prove

__all__ = ["Counterexample", "Proof", "RouteProof", "prove"]
