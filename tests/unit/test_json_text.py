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
    assert json.loads(json_text.joined(*(b"{%b}" % member for _, member in found))) == value
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


def test_empty_objects_leave_no_comma() -> None:
    assert json_text.joined(b"{}", b'{"a":1}', b"{ }", b'{"b":2}') == b'{"a":1,"b":2}'
    assert json_text.joined(b"{}") == json_text.without(b" { } ", ()) == json_text.EMPTY
    assert orjson.loads(json_text.joined()) == {}
