"""`mserve completion SHELL`: a script with which the shell completes the words of command lines.

shtab makes it of the argument parser, so that completing a word starts no Python. Knows what the
words stand for (a strategy, one of its pools, a rule), not what the commands do with them.
"""

import argparse
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TypeAlias

from mserve.runtime.cli.strategies import Commands

SHELLS = ("bash", "zsh", "fish")
# What options take that leave the check of their value to others; the parser knows the rest.
VALUES: Mapping[str, tuple[str, ...]] = {
    "device": ("cpu", "cuda"),
    "dtype": ("float32", "bfloat16", "float16"),
}

Completer: TypeAlias = Mapping[str, str | Mapping[str, str]]  # of shells, in the terms of shtab


def add_commands(commands: Commands, parser: argparse.ArgumentParser) -> None:
    """`parser` is the whole command's, the one to complete for."""
    command = commands.add_parser("completion", help="print a script that completes in a shell")
    command.add_argument("shell", choices=SHELLS, help="the shell that it is for")
    command.set_defaults(run=partial(_completion, parser))


def _completion(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    print(completion_script(parser, arguments.shell))
    return 0


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for one of SHELLS. The parser is of no other use afterwards: it is marked."""
    import shtab

    for command, action in _actions(parser):
        values = _values(action)
        completer = None if values else _completer(command, action)
        if values:
            action.choices = values
        if completer:
            action.complete = completer  # type: ignore[attr-defined]  # shtab looks for it
    script = shtab.complete(parser, shell, preamble=_functions(shell))
    return f"{script}\n{_WHOLE_WORDS}" if shell == "bash" else script


def _actions(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    """Each with its command; argparse has no public way to go through them."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield parser.prog.rpartition(" ")[2], action


def _values(action: argparse.Action) -> Sequence[str]:
    """The few words that may stand there; none where they are many, or the parser knows them."""
    from mserve.compiler.passes import PASSES
    from mserve.dsl.rules import RULES

    match action.metavar:
        case "RULE":
            return sorted(RULES)
        case "PASS":
            return [each.__name__ for each in PASSES]
    return VALUES.get(action.dest, ())


def _completer(command: str, action: argparse.Action) -> Completer | None:
    import shtab

    match action.metavar or action.dest:
        case "FILE" if command == "fmt":  # it writes files
            return shtab.glob("*.mserve")
        case "FILE":
            return _calling("_mserve_strategies")
        case "POOL=COUNT":
            return _calling("_mserve_pools")
        case "PARAM=VALUE":
            return _calling("_mserve_params")
        case "DIR" | "log_dir":
            return shtab.DIRECTORY
        case "SPEC":
            return _calling("_mserve_traffic")
        case "OUT" | "RUN" | "TOML" | "PROFILE":
            return shtab.FILE
    return None


# --- what the scripts call -----------------------------------------------------------------------


def _calling(function: str) -> Completer:
    # With `glob` in the name, what bash finds are files: directories end in a slash.
    return {"bash": f"{function}_glob", "zsh": function, "fish": f"({function})"}


def _functions(shell: str) -> str:
    """How to find strategies, and the pools and params of those named on the command line."""
    from importlib.resources import files

    from mserve.runtime.traffic.spec import GENERATORS

    traffic = " ".join(f"{name}:" for name in GENERATORS)
    folder = shlex.quote(str(files("mserve.strategies")))
    text = {"bash": _OF_BASH_AND_ZSH + _BASH, "zsh": _OF_BASH_AND_ZSH + _ZSH, "fish": _FISH}[shell]
    text = text.replace("@NAMES@", _NAMES).replace("@FOLDER@", folder)
    return text.replace("@TRAFFIC@", traffic)


# Names that `$kind` declares in `$file`: without texts and comments, what stands behind that word.
_NAMES = r"""sed 's/"[^"]*"//g; s/#.*//' "$file" |
        grep -oE "(^|[^A-Za-z0-9_])$kind +[A-Za-z_][A-Za-z0-9_]*" | sed 's/.* //; s/$/=/'"""

_OF_BASH_AND_ZSH = r"""
_mserve_declared() {  # pool or param, then the words of the command line
  local kind=$1 word file
  shift
  for word in "$@"; do
    for file in "$word" @FOLDER@/"$word.mserve"; do
      [[ $file == *.mserve && -f $file ]] &&
        @NAMES@
    done
  done
}
"""

_BASH = r"""
_mserve_strategies_glob() {
  local file
  for file in @FOLDER@/*.mserve; do
    file=${file##*/}
    compgen -W "${file%.mserve}" -- "$1"
  done
  compgen -f -X '!*.mserve' -- "$1"
  compgen -d -- "$1"
}
_mserve_traffic_glob() {
  compgen -W "@TRAFFIC@" -- "$1"
  compgen -f -- "$1"
}
_mserve_pools_glob() {
  compgen -W "$(_mserve_declared pool "${COMP_WORDS[@]}")" -- "$1"
}
_mserve_params_glob() {
  compgen -W "$(_mserve_declared param "${COMP_WORDS[@]}")" -- "$1"
}
"""

_ZSH = r"""
_mserve_strategies() {
  local -a shipped=(@FOLDER@/*.mserve(N:t:r))
  _alternative "strategies:shipped strategy:($shipped)" 'files:strategy file:_files -g "*.mserve"'
}
_mserve_traffic() {
  compadd -S '' -- @TRAFFIC@
  _files
}
_mserve_pools() {
  compadd -S '' -- $(_mserve_declared pool $words)
}
_mserve_params() {
  compadd -S '' -- $(_mserve_declared param $words)
}
"""

_FISH = r"""
function _mserve_declared -a kind
  for word in (commandline -opc)
    for file in $word @FOLDER@/$word.mserve
      string match -q -- '*.mserve' $file; and test -f $file; and begin
        @NAMES@
      end
    end
  end
end
function _mserve_strategies
  for file in @FOLDER@/*.mserve
    basename $file .mserve
  end
  __fish_complete_path (commandline -ct) | string match -r '^[^\t]*(?:\.mserve|/)(?:\t.*)?$'
end
function _mserve_traffic
  string split ' ' -- '@TRAFFIC@'
  __fish_complete_path (commandline -ct)
end
function _mserve_pools
  _mserve_declared pool
end
function _mserve_params
  _mserve_declared param
end
"""

# bash splits words at `=` and `:`, as in `--cluster prefill=2`; the parser and shtab do not.
_WHOLE_WORDS = r"""
_mserve_whole_words() {
  local -a whole=("$1")
  local index word joins=''
  for ((index = 1; index <= COMP_CWORD; index++)); do
    word=${COMP_WORDS[index]}
    if [[ -n $joins || $word == [=:]* ]] && ((${#whole[@]} > 1)); then
      whole[${#whole[@]}-1]+=$word
    else
      whole+=("$word")
    fi
    [[ $word == *[=:] ]] && joins=1 || joins=''
  done
  local -a COMP_WORDS=("${whole[@]}")
  local COMP_CWORD=$((${#whole[@]} - 1))
  _shtab_mserve
  word=${COMP_WORDS[COMP_CWORD]}
  COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*[=:]}"}"}")
  [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=:] ]] &&
    compopt -o nospace +o filenames 2>/dev/null
  return 0
}
complete -o bashdefault -F _mserve_whole_words mserve"""
