"""What is said about an example, with the author's own words in it (mistake.py names the places)."""

import re

from mserve.dsl.failure import Failure
from mserve.dsl.token_kinds import LITERALS

_PLACEHOLDER = re.compile(r"\b(?:NAME|FOUND|WORD|BEFORE|AFTER|VALUE|WORKER)\b")


def filled(text: str, failure: Failure) -> str:
    tokens, index = failure.tokens, failure.index
    words = {"FOUND": index, "BEFORE": index - 1, "AFTER": index + 1}
    known = {word: str(tokens[at]) for word, at in words.items() if 0 <= at < len(tokens)}
    if failure.found is not None:
        known["WORD"] = re.sub(r"\W+", "_", failure.found.strip('"'))
    values = (str(each) for each in tokens[index : index + 2] if each.type in LITERALS)
    known["VALUE"] = next(values, "...")
    if index > 1 and tokens[1].type == "NAME":
        known["NAME"] = str(tokens[1])
    before, found = tokens[index - 1], failure.found
    if before.type == "NAME" and tokens[index - 2].type == "GENERATE":
        known["WORKER"] = str(before if found is None or found.type != "NAME" else found)
    return _PLACEHOLDER.sub(lambda match: known.get(match[0], match[0]), text)
