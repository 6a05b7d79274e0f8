"""Source text made fit for a terminal: tabs as spaces, nothing that moves the cursor or cannot be
encoded; and how many columns a text takes."""

import unicodedata

TAB_WIDTH = 4


def printable(text: str) -> str:
    """Control characters and lone surrogates become U+FFFD, a tab `TAB_WIDTH` spaces."""
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character == "\t":
        return " " * TAB_WIDTH
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return "\N{REPLACEMENT CHARACTER}"


def width(text: str) -> int:
    """Columns of a terminal that a printable text takes."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
