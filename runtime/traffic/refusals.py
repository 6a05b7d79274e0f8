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
    subject = f"{place.removeprefix('.') or 'the line'} is {_shown(_value_at(given, place))}"
    if expected is None:
        return f"{subject}: {problem.replace('`', '').lower()}"
    kind, comparison, bound = expected.groups()
    if comparison:
        return f"{subject}; it must be {_BOUNDS[comparison]} {float(bound):,.10g}"
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


def line_refused(
    error: msgspec.DecodeError | UnicodeDecodeError, line: bytes, fields: tuple[str, ...] = ()
) -> str:
    """As `refused`, of a line of JSON, which may be none at all."""
    try:
        given = json.loads(line.decode())
    except UnicodeDecodeError:
        return not_text(line)
    except json.JSONDecodeError as broken:
        return _malformed(broken)
    if isinstance(error, msgspec.ValidationError):
        return refused(error, given, fields)
    return f"it is no JSON: {error}"  # as NaN, which Python takes


def not_text(line: bytes) -> str:
    """What a line is that is not UTF-8; without the full stop."""
    begin = line[:_NUM_AROUND].decode(errors="backslashreplace")
    return f"it is no text in UTF-8, as its beginning {begin!r} shows"


def _malformed(broken: json.JSONDecodeError) -> str:
    before, after = broken.doc[: broken.pos], broken.doc[broken.pos :]
    if not after.strip() or broken.msg.startswith("Unterminated"):
        return f"it is no JSON, as it ends too soon, with {broken.doc[-_NUM_AROUND:]!r}"
    left = f", after {before[-_NUM_AROUND:]!r}" if before else ""
    return f"it is no JSON: {broken.msg.lower()} at {after[:_NUM_AROUND]!r}{left}"
