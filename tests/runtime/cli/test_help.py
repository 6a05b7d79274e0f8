"""What every `mserve X --help` says: each option has words, and the default that it really has."""

import argparse
from collections.abc import Iterator

import pytest

from mserve.compiler.verifier.proof import BUDGET, FAULTS
from mserve.runtime import cli
from mserve.runtime.config import EngineOptions
from mserve.runtime.simulator.hardware import load_hardware
from mserve.runtime.simulator.pools import WorkerOptions

SAYS_ITSELF = {"help", "version"}
NO_DEFAULTS: tuple[object, ...] = (None, False, "", [], argparse.SUPPRESS)


def commands(
    parser: argparse.ArgumentParser, name: str = "mserve"
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, inner in action.choices.items():
                yield from commands(inner, f"{name} {word}")


COMMANDS = dict(commands(cli._parser()))
OPTIONS = [
    pytest.param(command, action, id=f"{command} {'/'.join(action.option_strings) or action.dest}")
    for command, parser in COMMANDS.items()
    for action in parser._actions
    if action.dest not in SAYS_ITSELF and not isinstance(action, argparse._SubParsersAction)
]


def help_of(command: str, flag: str) -> str:
    (action,) = (each for each in COMMANDS[command]._actions if flag in each.option_strings)
    return str(action.help) % {"default": action.default}


@pytest.mark.parametrize(("command", "action"), OPTIONS)
def test_every_option_says_what_it_is(command: str, action: argparse.Action) -> None:
    assert action.help, "an option without words is no help"
    if not action.required and action.default not in NO_DEFAULTS:
        assert "default" in action.help


@pytest.mark.parametrize("command", ["mserve serve", "mserve worker"])
@pytest.mark.parametrize("flag", ["--max-batch-tokens", "--chunk-tokens", "--max-sequences"])
def test_limits_are_those_of_serving(command: str, flag: str) -> None:
    default = getattr(EngineOptions(), flag[2:].replace("-", "_"))
    assert f"default: {default}" in help_of(command, flag)


@pytest.mark.parametrize("flag", ["--max-batch-tokens", "--chunk-tokens"])
def test_limits_are_those_of_simulating_and_serving(flag: str) -> None:
    name = flag[2:].replace("-", "_")
    said = help_of("mserve simulate", flag)
    assert f"default: {getattr(WorkerOptions(), name)}" in said
    assert f"`mserve serve` has {getattr(EngineOptions(), name)}" in said


def test_gpus_and_models_are_those_of_the_table() -> None:
    hardware = load_hardware()
    assert f"{', '.join(hardware.gpus)}, or" in help_of("mserve simulate", "--gpu")
    assert f"{', '.join(hardware.models)}, " in help_of("mserve simulate", "--model")
    assert f"{', '.join(hardware.formats)} or" in help_of("mserve simulate", "--weights")


def test_the_bounds_of_a_proof() -> None:
    assert f"default: {FAULTS}" in help_of("mserve verify", "--faults")
    assert f"default: {BUDGET}" in help_of("mserve verify", "--states")
