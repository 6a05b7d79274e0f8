"""What is said about a mistake of form, and the broken declarations that show it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mistake:
    """`examples` are declarations; `replacement` mends the token that stops the parser.

    `message` and `help` may name what the author wrote: `NAME` is the declaration's name, `FOUND`
    the token that stopped the parser (`WORD`: made a name), `BEFORE` and `AFTER` are its
    neighbours, `VALUE` is a literal at or behind it (or `...`), `WORKER` the name behind
    `generate`. Each stays as it is where there is none.
    `of_step`: it is the whole step so far that is wrong, not the token that stops the parser.
    """

    message: str
    help: str
    examples: tuple[str, ...]
    replacement: str | None = None
    of_step: bool = False
