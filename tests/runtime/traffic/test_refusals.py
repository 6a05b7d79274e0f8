"""What msgspec refuses is said with the field and its value; none of msgspec's own words is left."""

import re
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta, Struct

from mserve.runtime.traffic.refusals import line_refused, refused


class Inner(Struct, forbid_unknown_fields=True):
    length: int


class Line(Struct, forbid_unknown_fields=True):
    count: Annotated[int, Meta(ge=1)] = 1
    share: Annotated[float, Meta(gt=0, le=0.5)] = 0.1
    name: str | None = None
    ids: tuple[int, ...] = ()
    inner: tuple[Inner, ...] = ()
    key: int | str = 0


FIELDS = Line.__struct_encode_fields__


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"count": -5}, "count is -5; it must be at least 1"),
        ({"count": 1.5}, "count is 1.5, not a whole number"),
        ({"count": None}, "count is null, not a whole number"),
        ({"share": 0}, "share is 0; it must be above 0"),
        ({"share": 2}, "share is 2; it must be at most 0.5"),
        ({"share": True}, "share is true, not a number"),
        ({"name": 3}, "name is 3, not a text"),
        ({"ids": "x" * 90}, f"ids is '{'x' * 39}..., not a list"),
        ({"ids": [1, [2]]}, "ids[1] is [2], not a whole number"),
        ({"inner": [{"length": "a"}]}, "inner[0].length is 'a', not a whole number"),
        ({"inner": [{}]}, "length is missing in inner[0]"),
        ({"inner": [4]}, "inner[0] is 4, not an object in {}"),
        ({"key": 1.5}, "key is 1.5, not a whole number or a text"),
        ({"nam": 1}, "there is no field 'nam' (did you mean 'name'?)"),
        ([7], "the line is [7], not an object in {}"),
    ],
)
def test_sentences(given: Any, sentence: str) -> None:
    with pytest.raises(msgspec.ValidationError) as error:
        msgspec.json.decode(msgspec.json.encode(given), type=Line)
    assert refused(error.value, given, FIELDS) == sentence


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"{'a': 1}", "it is no JSON: .* at .*'a'.*, after '{'"),
        (b'{"count": 1 "b": 2}', """it is no JSON: .* at '"b": 2}', after '{"count": 1 '$"""),
        (b'{"count": -1 "b": 2}', """it is no JSON: .* at '"b": 2}'"""),
        (b'{"count": ', """it is no JSON, as it ends too soon, with '{"count": '$"""),
        (b'{"count": -1, "na', """it is no JSON, as it ends too soon, with '.*"na'$"""),
        (b'{"share": 1e999}', "share is Infinity: number out of range"),
        (b'{"share": NaN}', "it is no JSON: .*invalid character"),
        (b'{"name": "\xff"}', "it is no text in UTF-8, as its beginning .*xff"),
        (b"@", "it is no JSON: expecting value at '@'$"),
        (b'{"count": 0}', "count is 0; it must be at least 1"),
    ],
)
def test_a_line_is_shown_where_it_is_wrong(line: bytes, sentence: str) -> None:
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)) as error:
        msgspec.json.decode(line, type=Line)
    assert isinstance(error.value, msgspec.DecodeError | UnicodeDecodeError)
    assert re.match(sentence, line_refused(error.value, line, FIELDS))
