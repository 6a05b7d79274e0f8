"""What a running router needs of the language: compiling another strategy, reading a param's value."""

from mserve.compiler.observe import Strategy
from mserve.compiler.pipeline import CompiledStrategy
from mserve.runtime.errors import BadRequest, Unprocessable

_STATES = 3_000  # per shape: a split route has some 2,000 with one fault


class LiveLanguage:
    """Implements router.live.Language."""

    def compile(self, text: bytes) -> Strategy:
        """Raises Unprocessable with every diagnostic, as `mserve check` prints them."""
        from mserve.compiler.pipeline import compile_strategy
        from mserve.dsl.check import check_bytes
        from mserve.dsl.render import render

        checked = check_bytes(text, "strategy.mserve")
        if checked.strategy is None:
            raise Unprocessable(render(checked.source, checked.diagnostics))
        strategy = compile_strategy(checked)
        if strategy.unsupported:
            raise Unprocessable("It cannot be served yet: " + " ".join(strategy.unsupported))
        self._verify(strategy)
        return strategy

    def _verify(self, strategy: CompiledStrategy) -> None:
        """What `mserve verify` finds within a few seconds. Raises Unprocessable with its story."""
        from mserve.compiler.verifier import Counterexample, prove

        found = prove(strategy, faults=1, budget=_STATES)
        if isinstance(found, Counterexample):
            story = " ".join(f"{number}. {line}" for number, line in enumerate(found.story, 1))
            raise Unprocessable(f"Route {found.route} breaks a rule, {found.broken}: {story}")

    def read(self, strategy: Strategy, param: str, text: str) -> float:
        from mserve.compiler.givens import GivenError, situation_from_text

        assert isinstance(strategy, CompiledStrategy), "the router serves what was compiled here"
        try:
            return situation_from_text(strategy, params=[f"{param}={text}"]).params[param]
        except GivenError as error:
            raise BadRequest(f"{error}.", param=param) from None
