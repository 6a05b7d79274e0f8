"""Strategy files as commands take them: found by path or shipped name, checked, compiled."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from mserve.compiler.pipeline import CompiledStrategy
    from mserve.dsl.check import Checked

TEXT_FORMATS = ("full", "concise", "github")  # nothing to print means nothing to say
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def strategy_path(name: str) -> Path:
    """A file, or the shipped strategy of that name. Raises ConfigError with what there is."""
    from importlib.resources import files

    from mserve.runtime.errors import ConfigError

    path = Path(name)
    if path.is_file():
        return path
    shipped = Path(str(files("mserve.strategies")))
    if (shipped / f"{name}.mserve").is_file():
        return shipped / f"{name}.mserve"
    raise ConfigError(_no_strategy(name, shipped_strategies()))


def shipped_strategies() -> list[str]:
    """The names of the strategies that come with the package, in order."""
    from importlib.resources import files

    return sorted(file.stem for file in Path(str(files("mserve.strategies"))).glob("*.mserve"))


def strategy_description(name: str) -> str:
    """What a shipped strategy says of itself, in one line."""
    strategy = checked(name).strategy
    assert strategy is not None, f"the shipped strategy {name} has no mistakes"
    return strategy.description


def _no_strategy(name: str, known: Sequence[str]) -> str:
    from mserve.runtime.traffic.suggestions import near_miss

    near = near_miss(Path(name).stem, known)
    hint = f"Did you mean '{near}'?" if near else f"Shipped strategies: {', '.join(known)}."
    return f"There is no file '{name}', and no shipped strategy of that name. {hint}"


def checked(name: str) -> "Checked":
    from mserve.dsl.check import check_bytes
    from mserve.runtime.errors import ConfigError

    path = strategy_path(name)
    try:
        return check_bytes(path.read_bytes(), str(path) if Path(name).is_file() else path.name)
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror}.") from None


def compiled(name: str) -> "CompiledStrategy | None":
    """The compiled strategy, or None after its errors have been printed."""
    return compiled_text(name, checked(name))


def compiled_text(name: str, result: "Checked") -> "CompiledStrategy | None":
    """`compiled` for a text that has been checked."""
    from mserve.compiler.pipeline import compile_strategy
    from mserve.compiler.scope import CompileError
    from mserve.runtime.errors import ConfigError

    print(rendered([result], "full"), end="", file=sys.stderr)
    if result.strategy is None:
        return None
    try:
        return compile_strategy(result)
    except CompileError as error:
        raise ConfigError(f"{name} cannot be compiled: {error}.") from None


def rendered(results: "Sequence[Checked]", style: str) -> str:
    """All diagnostics of some files in one of `mserve check`'s formats."""
    if style in TEXT_FORMATS and not any(result.diagnostics for result in results):
        return ""
    from mserve.dsl.render import render_all

    return render_all([(result.source, result.diagnostics) for result in results], style)


def servable(name: str) -> "CompiledStrategy | None":
    """Like `compiled`; raises ConfigError for what the runtime cannot carry out yet."""
    from mserve.runtime.errors import ConfigError

    strategy = compiled(name)
    if strategy is not None and strategy.unsupported:
        reasons = "\n  ".join(strategy.unsupported)
        raise ConfigError(f"'{strategy.name}' cannot be served yet:\n  {reasons}")
    return strategy
