"""JSON objects as text: what is not taken out stays as it was written."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_api.wire import json_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
OBJECTS = st.dictionaries(st.text(max_size=8), VALUES, max_size=6)
WRITTEN = b' {\t"a" : 1.0 ,\r\n"b":36893488147419103232,"\\u0061":[1E5 , {"b":"}],"}] , "c":""} '


@given(OBJECTS, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_members_are_found_in_every_layout(
    value: dict[str, Any],
    indent: int | str | None,
    escaped: bool,  # noqa: FBT001
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=escaped)
    text = text.encode("utf-8", "replace").decode()
    value = json.loads(text)
    found = json_text.members(text.encode())
    assert [name for name, _ in found] == list(value)
    assert json.loads(json_text.joined(*(f"{{{member}}}".encode() for _, member in found))) == value
    for name in value:
        assert name not in json.loads(json_text.without(text.encode(), {name}))
        written = json_text.value_of(text.encode(), name)
        assert written is not None
        assert json.loads(written) == value[name]


def test_what_stays_is_as_it_was_written() -> None:
    assert json_text.without(WRITTEN, {"b", "c"}) == (b'{"a" : 1.0,"\\u0061":[1E5 , {"b":"}],"}]}')
    assert json_text.without(WRITTEN, {"a"}) == b'{"b":36893488147419103232,"c":""}'
    assert json_text.value_of(WRITTEN, "a") == b'[1E5 , {"b":"}],"}]'
    assert json_text.value_of(WRITTEN, "d") is None


@pytest.mark.parametrize("depth", [1, 200])
def test_depth_and_length_are_no_matter(depth: int) -> None:
    number = b"9" * 5_000
    text = b'{"a":' + b"[" * depth + number + b"]" * depth + b"}"
    assert json_text.without(text, ()) == text


def test_numbers_are_written_again_as_they_were() -> None:
    """Those that Python would write in the same way are numbers to whoever looks at them."""
    text = (
        b'{"a":18446744073709551617,"b":[-0,1.0,1E5,-1e-400,0.1,0.10],"c":{"d":1e308},'
        b'"e":123456789012345678,"f":"1.0","g":[true,null],"h":0.7}'
    )
    value = json_text.exact(text)
    assert orjson.dumps(value) == text
    assert (value["e"], value["h"], value["g"]) == (123456789012345678, 0.7, [True, None])


@given(OBJECTS)
def test_what_is_exact_is_the_same_value(value: dict[str, Any]) -> None:
    text = json.dumps(value).encode()
    assert json.loads(orjson.dumps(json_text.exact(text))) == value
    again = json.dumps(dict(reversed(value.items())), indent=1, ensure_ascii=False)
    assert json_text.canonical(text) == json_text.canonical(again.encode())


def test_empty_objects_leave_no_comma() -> None:
    assert json_text.joined(b"{}", b'{"a":1}', b"{ }", b'{"b":2}') == b'{"a":1,"b":2}'
    assert json_text.joined(b"{}") == json_text.without(b" { } ", ()) == json_text.EMPTY
    assert orjson.loads(json_text.joined()) == {}
