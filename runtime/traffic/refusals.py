"""What msgspec refuses in a line or a setting, as sentences that name the field and show its value.

Knows no format: only msgspec's own sentences, which are read in this one place.
"""

import json
import re
from typing import Any

import msgspec

from mserve.runtime.traffic.suggestions import meant

_EXPECTED = re.compile(r"Expected `([^`]+)`(?:, got `\w+`| (>=|>|<=|<) (\S+))")
_FIELD = re.compile(r"Object (missing required|contains unknown) field `([^`]*)`")
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")
_BYTE = re.compile(r"\(byte (\d+)\)")
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "array": "a list",
    "object": "an object in {}",
}
_BOUNDS = {">=": "at least", ">": "above", "<=": "at most", "<": "below"}
_NUM_SHOWN = 40  # characters of a value
_NUM_AROUND = 24  # characters of a line, on each side of what is wrong


def refused(error: msgspec.ValidationError, given: Any, fields: tuple[str, ...] = ()) -> str:
    """Without the full stop. `given` is what was converted, decoded; `fields` are those known where
    an unknown one is refused."""
    problem, _, place = str(error).partition(" - at `$")
    place = place.rstrip("`")
    if found := _FIELD.fullmatch(problem):
        return _field_refused(found, place, fields)
    expected = _EXPECTED.fullmatch(problem)
    if expected is None:
        return problem.replace("`", "")
    kind, comparison, bound = expected.groups()
    subject = f"{place.removeprefix('.') or 'the line'} is {_shown(_value_at(given, place))}"
    if comparison:
        return f"{subject}; it must be {_BOUNDS[comparison]} {float(bound):g}"
    kinds = [_KINDS.get(each, each) for each in kind.split(" | ") if each != "null"]
    return f"{subject}, not {' or '.join(kinds)}"


def _field_refused(found: re.Match[str], place: str, fields: tuple[str, ...]) -> str:
    where = f" in {place.removeprefix('.')}" if place else ""
    if found[1] == "missing required":
        return f"{found[2]} is missing{where}"
    hint = f" ({meant(found[2], fields).rstrip('.')})" if fields else ""
    return f"there is no field {found[2]!r}{where}{hint}"


def _value_at(given: Any, place: str) -> Any:
    """`place` as in `.messages[0].role`."""
    for name, index in _STEP.findall(place):
        given = given[name] if name else given[int(index)]
    return given


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _NUM_SHOWN else f"{text[:_NUM_SHOWN]}..."


def malformed(error: msgspec.DecodeError, line: bytes) -> str:
    """Of a line that is no JSON; without the full stop."""
    found = _BYTE.search(str(error))
    if found is None:
        end = line[-_NUM_AROUND:].decode(errors="replace")
        return f"it is no JSON, as it ends too soon, with {end!r}"
    before, after = line[: int(found[1])], line[int(found[1]) :]
    comes = after[:_NUM_AROUND].decode(errors="replace")
    left = before[-_NUM_AROUND:].decode(errors="replace")
    reason = str(error).removeprefix("JSON is malformed: ").partition(" (byte")[0]
    return f"it is no JSON: {reason} at {comes!r}{f', after {left!r}' if left else ''}"
