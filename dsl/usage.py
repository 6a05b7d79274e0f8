"""What a strategy declares and never uses.

A binding is used if a guard, a step, `adapt`, a test or a used binding names it; a pool if a
step's worker may come from it or it is another pool's peer. Expects resolved names.
"""

from collections.abc import Iterator

from mserve.dsl import syntax
from mserve.dsl.diagnostics import Diagnostic
from mserve.dsl.inference import Inference
from mserve.dsl.references import Reference
from mserve.dsl.rules.naming import unused_binding, unused_param, unused_pool
from mserve.dsl.symbols import Symbols


def check_usage(
    strategy: syntax.Strategy, symbols: Symbols, inference: Inference
) -> Iterator[Diagnostic]:
    used = _reached(strategy, symbols)
    named = {reference.name for reference in _named_anywhere(strategy, symbols)}
    for let in strategy.lets:
        if Reference(let.name) not in used and not _waits_for_unused(let.name, named):
            yield unused_binding(let.name_span, let.name, "binding")
    for definition in strategy.defs:
        if Reference(definition.name) not in used and definition.name not in named:
            yield unused_binding(definition.name_span, definition.name, "definition")
    for param in strategy.params:
        if Reference(param.name) not in used and param.name not in named:
            yield unused_param(param.name_span, param.name)
    pools = _pools_of_steps(strategy, inference) | set(_peers(strategy))
    for pool in strategy.pools:
        if pool.name not in pools:
            yield unused_pool(pool.name_span, pool.name)
