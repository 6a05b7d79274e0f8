"""One version of an open file, with what is known of it: each is found once, when it is first asked.

Knows no protocol.
"""

from dataclasses import dataclass
from functools import cached_property

from mserve.dsl.check import Checked, check_source
from mserve.dsl.lalr import Token
from mserve.dsl.navigation import Navigation
from mserve.dsl.server.positions import BYTE_ORDER_MARK
from mserve.dsl.source import Source
from mserve.dsl.tokens import tokenize


@dataclass(frozen=True)
class Document:
    """`text` is the client's; offsets elsewhere are those of `source`."""

    uri: str
    version: int
    text: str

    @property
    def has_mark(self) -> bool:
        return self.text.startswith(BYTE_ORDER_MARK)

    @cached_property
    def source(self) -> Source:
        return Source.from_text(self.text, self.uri)

    @cached_property
    def checked(self) -> Checked:
        return check_source(self.source)

    @cached_property
    def navigation(self) -> Navigation:
        return Navigation(self.source)

    @cached_property
    def tokens(self) -> list[Token]:
        return tokenize(self.source).tokens
