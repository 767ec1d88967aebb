"""JSON objects that clients send: bounded in values and in depth, every fault reported. Pure.

orjson refuses what the standard library lets through: NaN, infinities, lone surrogates, endless
nesting. What it reads deeper than it writes is refused here: an upstream could not be sent it.
"""

from __future__ import annotations

from typing import Final

import orjson

from streaming_api.errors import BadRequest

MOST_VALUES: Final = 250_000
"""Colons, commas and opening brackets allowed in one JSON text. 1 MB could take 24 MB as objects,
and 35 ms to read (docs/decisions/)."""
_VALUE_BYTES: Final = 100
"""Bytes of memory that each of them takes at most."""
_SURELY_SHALLOW: Final = 200
"""Brackets that cannot nest too deeply, however they nest: orjson writes 254 levels."""
_KINDS: Final = {
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}


def parse_object(text: bytes) -> dict[str, object]:
    """Parse a JSON object.

    Raises:
        BadRequest: the text is not JSON, not an object, or has more than `MOST_VALUES` values.
    """
    if len(text) > MOST_VALUES:
        parsed_bytes(text)
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        message = f"This is not JSON: {str(error)[:200]}."
        raise BadRequest(message, "invalid_json") from None
    if not isinstance(value, dict):
        found = _KINDS.get(type(value), "something else")
        message = f"A JSON object is expected, not {found}."
        raise BadRequest(message, "not_an_object")
    if text.count(b"[") + text.count(b"{") > _SURELY_SHALLOW:
        try:
            orjson.dumps(value)
        except orjson.JSONEncodeError:
            message = "This JSON is nested too deep; 200 levels are taken."
            raise BadRequest(message, "too_deep") from None
    return value


def parsed_bytes(text: bytes) -> int:
    """Estimate, before it is parsed, the bytes of memory that a JSON text takes as objects.

    Raises:
        BadRequest: the text has more than `MOST_VALUES` values.
    """
    values = sum(map(text.count, (b",", b":", b"[", b"{")))
    if values > MOST_VALUES:
        message = f"This JSON holds too many values; {MOST_VALUES} commas and brackets are taken."
        raise BadRequest(message, "too_many_values")
    return len(text) + values * _VALUE_BYTES
