"""What the documentation shows is so: its strategies compile, its mistakes are found, its commands run.

```mserve            a strategy without a mistake; ```mserve NAME.mserve is also kept as that file
```mserve-error ID   a strategy with exactly one mistake, of this rule
```console           `$ mserve ...` lines run if they are check, plan or test, else must only be
                     understood; lines below one are its output, `...` any number of lines
"""

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mserve.compiler.pipeline import compile_strategy
from mserve.compiler.testing import run_tests
from mserve.dsl import builtins, settings
from mserve.dsl.check import check_text
from mserve.runtime import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "strategies" / "README.md", *sorted(ROOT.glob("docs/*.md"))]
RUN = {"check", "plan", "test"}
_BLOCK = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    kind: str
    argument: str
    text: str


@dataclass(frozen=True)
class Command:
    block: Block
    words: tuple[str, ...]  # after `mserve`
    output: str


def blocks(*pages: Path) -> Iterator[Block]:
    for page in pages:
        text = page.read_text("utf-8")
        for match in _BLOCK.finditer(text):
            kind, _, argument = match[1].strip().partition(" ")
            line = text.count("\n", 0, match.start()) + 1
            yield Block(page, line, kind, argument.strip(), match[2])


def place(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


def commands(block: Block) -> Iterator[Command]:
    """Lines that begin with `$ mserve`, each with what follows up to the next `$`."""
    for part in re.split(r"^(?=\$ )", block.text, flags=re.MULTILINE):
        line, _, output = part.partition("\n")
        if line.startswith("$ mserve "):
            yield Command(block, tuple(shlex.split(line, comments=True)[2:]), output.rstrip())


ALL = list(blocks(*PAGES))
STRATEGIES = [block for block in ALL if block.kind == "mserve"]
MISTAKES = [block for block in ALL if block.kind == "mserve-error"]
COMMANDS = [command for block in ALL for command in commands(block)]


@pytest.mark.parametrize("block", STRATEGIES, ids=place)
def test_a_strategy_is_clean_and_compiles(block: Block) -> None:
    checked = check_text(block.text)
    assert [f"{each.rule}: {each.message}" for each in checked.diagnostics] == []
    results = run_tests(compile_strategy(checked))
    assert [(result.title, result.failures) for result in results if result.failures] == []


@pytest.mark.parametrize("block", MISTAKES, ids=place)
def test_a_mistake_is_of_the_rule_it_stands_for(block: Block) -> None:
    assert [each.rule for each in check_text(block.text).diagnostics] == [block.argument]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: place(each.block))
def test_a_command_line_is_understood(command: Command) -> None:
    cli._parser().parse_args(list(command.words))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_do_what_is_shown(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder with the page's named strategies."""
    monkeypatch.chdir(tmp_path)
    for block in blocks(page):
        if block.kind == "mserve" and block.argument:
            Path(block.argument).write_text(block.text, "utf-8")
        for command in commands(block):
            if command.words[0] in RUN and _is_there(command):
                code = cli.main(list(command.words))
                printed = capsys.readouterr()
                assert code == 0, f"{place(block)}: {printed.err}"
                if command.output:
                    assert re.fullmatch(_pattern(command.output), printed.out.rstrip()), printed.out


def _is_there(command: Command) -> bool:
    """A command about the reader's own file can only be understood."""
    named = [word for word in command.words if word.endswith(".mserve")]
    return all(os.path.exists(word) for word in named)


def _pattern(output: str) -> str:
    """Of a command's output, in which a line of three dots stands for any lines."""
    lines = [".*" if line.strip() == "..." else re.escape(line) for line in output.splitlines()]
    return "(?s)" + "\n".join(lines)


def test_the_language_guide_names_everything_there_is() -> None:
    guide = (ROOT / "docs" / "language.md").read_text("utf-8")
    reference = guide[guide.index("# Reference") :]
    quoted = " ".join(re.findall(r"`([^`\n]+)`", _BLOCK.sub("", reference)))
    named = set(re.findall(r"[a-z_]+", quoted))
    wanted = builtins.NAMES | settings.POOL.keys() | settings.SLO.keys() | settings.LIMITS.keys()
    for setting in settings.POOL.values():
        if isinstance(setting, settings.Choice):
            wanted |= setting.words.keys()
    assert wanted <= named


def test_the_tutorial_leaves_its_exercise_to_the_reader() -> None:
    guide = (ROOT / "docs" / "language.md").read_text("utf-8")
    assert "reuse prompt from home" not in guide
    assert "ttft(move)" not in guide
    assert len(STRATEGIES) >= 10
    assert len(MISTAKES) >= 3
    assert len(COMMANDS) >= 8
