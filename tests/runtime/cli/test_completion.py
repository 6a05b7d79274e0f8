"""What TAB gives, asked of real shells with the script that `mserve completion` prints."""

import os
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mserve.dsl.rules import RULES
from mserve.runtime import cli
from mserve.runtime.cli.completion import SHELLS, VALUES, completion_script

ROOT = Path(__file__).parents[3]
SHIPPED = {path.stem for path in ROOT.glob("strategies/*.mserve")}
COMMANDS = {"check", "completion", "demo", "explain", "fmt", "plan", "serve", "test", "worker"}
MINE = 'strategy mine "no pool of it"\n# a pool of\npool left  pool right\nparam tail = 1 in 0..9\n'
MAX_WAIT_S = 20.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to type in: strategies of one's own, other files, and the three scripts."""
    path = tmp_path_factory.mktemp("folder")
    (path / "mine.mserve").write_text(MINE)
    (path / "notes.txt").touch()
    (path / "more").mkdir()
    for shell in SHELLS:
        (path / f".script.{shell}").write_text(completion_script(cli._parser(), shell))
    return path


def in_bash(folder: Path, line: str) -> set[str]:
    """What bash would offer for the last word of the line, split where bash splits."""
    words = [
        part for word in line.split(" ") for part in re.split("([=:])", word) if part or not word
    ]
    script = f"""
      source .script.bash
      COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}
      _mserve_whole_words mserve && printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return offered(folder, ["bash", "--norc", "-c", script])


def in_fish(folder: Path, line: str) -> set[str]:
    script = f"source .script.fish; complete -C {shlex.quote(line)}"
    return offered(folder, ["fish", "--no-config", "-c", script])


def offered(folder: Path, argv: list[str]) -> set[str]:
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return {line.partition("\t")[0].rstrip("/") for line in done.stdout.splitlines() if line}


ASK = {"bash": in_bash, "fish": in_fish}
shells = pytest.mark.parametrize(
    "shell",
    [
        pytest.param(name, marks=pytest.mark.skipif(not shutil.which(name), reason=f"no {name}"))
        for name in ASK
    ],
)


@shells
def test_commands(folder: Path, shell: str) -> None:
    assert ASK[shell](folder, "mserve ") >= COMMANDS
    assert ASK[shell](folder, "mserve ch") == {"check"}


@shells
def test_options_and_their_values(folder: Path, shell: str) -> None:
    ask = ASK[shell]
    assert ask(folder, "mserve plan --fo") == {"--format"}
    assert ask(folder, "mserve plan balanced --format m") == {"mermaid"}
    assert ask(folder, "mserve serve balanced --device c") == {"cpu", "cuda"}
    assert ask(folder, "mserve plan --after cut") == {"cut_segments"}
    assert ask(folder, "mserve completion ") == set(SHELLS)


@shells
def test_strategies(folder: Path, shell: str) -> None:
    ask = ASK[shell]
    assert ask(folder, "mserve serve ") == SHIPPED | {"mine.mserve", "more"}
    assert ask(folder, "mserve check --format json m") == {"migration", "mine.mserve", "more"}
    assert ask(folder, "mserve test balanced mi") == {"migration", "mine.mserve"}
    assert ask(folder, "mserve fmt mi") == {"mine.mserve"}  # writes what it is given


@shells
def test_rules(folder: Path, shell: str) -> None:
    assert ASK[shell](folder, "mserve explain ") == set(RULES)
    assert ASK[shell](folder, "mserve explain gap") == {"gap-in-prompt"}


@shells
def test_pools_and_params_of_the_strategy_that_is_named(folder: Path, shell: str) -> None:
    ask = ASK[shell]
    assert ask(folder, "mserve plan balanced --cluster ") == {"prefill=", "decode="}
    assert ask(folder, "mserve serve mine.mserve --cluster ") == {"left=", "right="}
    assert ask(folder, "mserve plan balanced --set ") == {"tail="}


@shells
def test_traffic(folder: Path, shell: str) -> None:
    ask = ASK[shell]
    assert ask(folder, "mserve bench --trace po") == {"poisson:"}
    assert ask(folder, "mserve bench --trace not") == {"notes.txt"}
    assert ask(folder, "mserve bench URL --html n") == {"notes.txt"}


@shells
def test_words_with_an_equals_sign_are_one_word(folder: Path, shell: str) -> None:
    ask = ASK[shell]
    assert ask(folder, "mserve plan balanced --cluster prefill=2 --cluster d") == {"decode="}
    assert ask(folder, "mserve serve --cluster prefill=2 bal") == {"balanced"}
    assert ask(folder, "mserve router --redis redis://host:1/0 bal") == {"balanced"}


@pytest.mark.parametrize("option", VALUES)
def test_values_that_the_parser_leaves_to_others_are_those_of_the_help(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["worker", "--help"])
    said = re.search(rf"--{option} {option.upper()}\s+([^(\n]*)", capsys.readouterr().out)
    assert said is not None
    assert set(re.findall(r"\w+", said[1])) - {"or"} == set(VALUES[option])


def test_completing_slows_no_command_down() -> None:
    program = "import sys, mserve.runtime.cli as cli; cli._parser(); print('shtab' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n"


# --- typed in ------------------------------------------------------------------------------------

_ZSH = "autoload -Uz compinit && compinit -u -D && eval \"$(cat .script.zsh)\"; PS1='$ '"
TYPED = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source .script.bash; PS1='$ '"),
    "zsh": (["zsh", "-f", "-i"], _ZSH),
}


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        ("mserve ch\t", "mserve check "),
        ("mserve test min\t", "mserve test mine.mserve "),
        ("mserve plan mine.mserve --cluster l\t3", "mserve plan mine.mserve --cluster left=3"),
    ],
)
@pytest.mark.parametrize("shell", TYPED)
def test_a_word_is_completed_while_it_is_typed(
    folder: Path, shell: str, keys: str, shown: str
) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell}")
    argv, prepare = TYPED[shell]
    with Terminal(argv, folder) as terminal:
        terminal.type(f"{prepare}; echo rea''dy\r")
        terminal.read_until(r"ready\r\n[^$]*\$ ")
        terminal.type(keys)
        terminal.read_until(re.escape(shown))


class Terminal:
    """A program with a terminal of its own."""

    def __init__(self, argv: list[str], folder: Path) -> None:
        self._ours, theirs = os.openpty()
        environment = os.environ | {"TERM": "dumb", "INPUTRC": "/dev/null"}
        self._process = subprocess.Popen(
            argv,
            cwd=folder,
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def read_until(self, pattern: str) -> None:
        """Raises AssertionError with what was shown instead."""
        shown, deadline = "", time.monotonic() + MAX_WAIT_S
        while not re.search(pattern, shown):
            ready, _, _ = select.select([self._ours], [], [], deadline - time.monotonic())
            assert ready, f"{pattern!r} was not shown, but {shown!r}"
            shown += os.read(self._ours, 4096).decode(errors="replace")
