"""What is proved, and the exception that says that it does not hold."""

from enum import StrEnum


class Property(StrEnum):
    """The values are the sentences that a violation is headed by."""

    PAGES = "no page stays held, no ticket and no send is left behind"
    KV = (
        "no KV is read before it is there or after its pages were let go, and none is written there"
    )
    STREAM = "no token reaches the client twice, none is skipped"
    END = "every run ends, and without a fault no plan fails"
    STALE = "a message of an earlier incarnation or attempt, or a repeated one, changes nothing"


class Violation(Exception):
    """`broken` does not hold; the message is a sentence about what happens."""

    def __init__(self, broken: Property, sentence: str) -> None:
        super().__init__(sentence)
        self.broken = broken
        self.sentence = sentence
