"""JSON that says what UTF-8 JSON cannot: read with exactly that replaced, byte for byte; pure.

Half an emoji must not cost the rest of an answer. RFC 8259 section 8.2 lets a string hold a lone
surrogate, Python writes `NaN` and `Infinity`, and tokenisers cut characters in two; but what we
send on has to be JSON that every client reads.
"""

from __future__ import annotations

import re
from typing import Final

import orjson

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

_TOKEN: Final = re.compile(
    rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'  # a string, to the end where it has none: linear, always
    rb"|[-+]?(?i:nan|inf(?:inity)?)\b"
    rb"|-?[0-9][0-9.eE+-]*+",
    re.DOTALL,
)
_CONTROL: Final = re.compile(rb"[\x00-\x1f]")
_ESCAPE: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"  # a lone half
    rb"|\\.",
    re.DOTALL,
)


def loads(data: bytes) -> tuple[object, bytes]:
    """Return the value and the bytes that say it: `data` itself, or with something replaced.

    Replaced by U+FFFD: lone surrogates, and bytes that are not UTF-8 (as the WHATWG Encoding
    Standard decodes an event stream). Replaced by null: NaN, infinities, and numbers that no
    double holds. Escaped: control characters in a string. A byte order mark is dropped.

    Raises:
        orjson.JSONDecodeError: it is not JSON, for other reasons.
    """
    try:
        return orjson.loads(data), data
    except orjson.JSONDecodeError:
        said = _TOKEN.sub(_sayable, data.decode("utf-8", "replace").encode())
        said = said.removeprefix(BYTE_ORDER_MARK)
        if said == data:
            raise
        return orjson.loads(said), said


def _sayable(found: re.Match[bytes]) -> bytes:
    token = found[0]
    if token.startswith(b'"'):
        token = _ESCAPE.sub(_whole, token) if b"\\" in token else token
        return _CONTROL.sub(_escaped, token)
    try:
        return token if abs(float(token)) < float("inf") else b"null"  # NaN compares false
    except ValueError:
        return token  # no number either: orjson reports it


def _escaped(found: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(found[0])


def _whole(found: re.Match[bytes]) -> bytes:
    return found[0] if found[1] is None else rb"\ufffd"
