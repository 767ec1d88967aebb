"""JSON objects as text: members are taken out and put in, the rest stays as it was written. Pure.

Numbers beyond 64 bits, ``1.0`` or ``1e5``, keys given twice: what a client wrote for the upstream
is not for us to write again. All text here has been read by orjson before: it is valid JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Final

import orjson

EMPTY: Final = b"{}"
_KEY: Final = re.compile(r'[ \t\n\r,]*("[^"\\]*+(?:\\.[^"\\]*+)*+")[ \t\n\r]*:[ \t\n\r]*')
# Numbers need not be converted: only where a value ends is of interest.
_READ: Final = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode


_VALUES: Final = json.JSONDecoder(parse_int=orjson.Fragment, parse_float=orjson.Fragment).decode
_SAFE_DIGITS: Final = 18
"""Digits of an integer that any integer of 64 bits can have."""


def _integer(written: str) -> int | orjson.Fragment:
    is_same = len(written) <= _SAFE_DIGITS and written != "-0"
    return int(written) if is_same else orjson.Fragment(written)


def _number(written: str) -> float | orjson.Fragment:
    value = float(written)
    return value if orjson.dumps(value).decode() == written else orjson.Fragment(written)


_EXACT: Final = json.JSONDecoder(parse_int=_integer, parse_float=_number).decode


def exact(text: bytes) -> dict[str, object]:
    """Return an object whose numbers will be written again as they are written here.

    Those that Python would write differently, or not at all, are an ``orjson.Fragment``.
    """
    value = _EXACT(text.decode())
    assert isinstance(value, dict)
    return value


def canonical(text: bytes) -> bytes:
    """Return the same value however it was written: members in order, without white space.

    Numbers stay as they were written: ``1.0`` is not ``1``.
    """
    return orjson.dumps(_VALUES(text.decode()), option=orjson.OPT_SORT_KEYS)


def compact(value: object) -> bytes:
    """Return a value as JSON that is to be kept: orjson's own bytes take ten times their length."""
    return bytes(memoryview(orjson.dumps(value)))


def members(text: bytes) -> list[tuple[str, str]]:
    """Return the members of an object: each name, and ``"name": value`` as it was written."""
    written = text.decode()
    found: list[tuple[str, str]] = []
    at = written.index("{") + 1
    while key := _KEY.match(written, at):
        _, at = _READ(written, key.end())
        found.append((_name(key[1]), written[key.start(1) : at]))
    return found


def _name(key: str) -> str:
    return str(json.loads(key)) if "\\" in key else key[1:-1]


def without(text: bytes, names: Collection[str]) -> bytes:
    """Return an object without the members of these names."""
    kept = ",".join([member for name, member in members(text) if name not in names])
    return f"{{{kept}}}".encode()


def value_of(text: bytes, name: str) -> bytes | None:
    """Return a member's value as it was written; None if there is none. The last one counts."""
    found = [member for other, member in members(text) if other == name]
    if not found:
        return None
    key = _KEY.match(found[-1])
    assert key is not None  # a member has a key
    return found[-1][key.end() :].encode()


def joined(*objects: bytes) -> bytes:
    """Merge the members of several objects into one; each object begins and ends with its brace."""
    return b"{%b}" % b",".join(filter(None, (one[1:-1].strip() for one in objects)))
