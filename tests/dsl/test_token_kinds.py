"""The sets of token kinds are the grammar's."""

import pytest

from mserve.dsl import token_kinds
from mserve.dsl.lalr import Automaton, Stopped, Token
from mserve.dsl.tables import load_parser

_STRANGER = Token("STRANGER", "")  # of no kind of the grammar, so the parser stops at it
_HEADS = {kind: [Token(*part) for part in parts] for kind, parts in token_kinds.PLAIN_HEADS.items()}


def _accepted_after(tokens: list[Token]) -> frozenset[str]:
    with pytest.raises(Stopped) as stopped:
        Automaton("declaration").feed([*tokens, _STRANGER])
    assert stopped.value.kind == _STRANGER.type, "a plain head is one that the grammar takes"
    return frozenset(stopped.value.accepts)


def test_every_declaration_but_the_head_of_the_file() -> None:
    assert _accepted_after([]) == token_kinds.DECLARATIONS - {"STRATEGY"}


def test_what_stands_in_blocks() -> None:
    assert _accepted_after(_HEADS["ROUTE"]) - {"RBRACE"} == token_kinds.STEPS
    assert _accepted_after(_HEADS["TEST"]) - {"RBRACE"} == token_kinds.TEST_LINES
    with_settings = {kind for kind in _HEADS if "NAME" in _accepted_after(_HEADS[kind])}
    assert with_settings == token_kinds.WITH_SETTINGS


def test_the_grammar_has_every_kind() -> None:
    known = {terminal.name for terminal in load_parser().terminals}
    assert known >= token_kinds.EXPRESSION_ENDS | token_kinds.OPENING | token_kinds.CLOSING
