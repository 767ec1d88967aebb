"""JSON that says what it cannot: exactly that is replaced, and nothing else."""

from __future__ import annotations

import json
import time

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_api.upstreams.repair import loads


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (rb'"\ud83d"', rb'"\ufffd"'),
        (rb'"\ud83d\ude00 \uDE00\uD83D"', rb'"\ud83d\ude00 \ufffd\ufffd"'),
        (rb'"\ud83d\ud83d\ude00"', rb'"\ufffd\ud83d\ude00"'),
        (rb'["\\ud83d", "\\\ud83d"]', rb'["\\ud83d", "\\\ufffd"]'),
        (b'"\xff\xed\xa0\xbd"', '"\ufffd\ufffd\ufffd\ufffd"'.encode()),
        (b'{"a" : NaN, "NaN":-Infinity}', b'{"a" : null, "NaN":null}'),
        (b"[nan, inf, -inf, Inf, +Infinity]", b"[null, null, null, null, null]"),
        (b'[1e999,-1E+400, "1e999", 1.50]', b'[null,null, "1e999", 1.50]'),
        (b"[" + b"9" * 400 + b"]", b"[null]"),
        (b'\xef\xbb\xbf{"a":1}', b'{"a":1}'),
        (b'{"a\x00" :\t"\x01\n\\n\x1f"}', rb'{"a\u0000" :%b"\u0001\u000a\n\u001f"}' % b"\t"),
    ],
)
def test_what_json_cannot_say_is_replaced(sent: bytes, said: bytes) -> None:
    assert loads(sent) == (orjson.loads(said), said)


@pytest.mark.parametrize(
    "sent", [b"", b"nonsense", b'"half', rb'"\ud83d', b'{"a":1,}', b'\x01"a"', b"[nano]", b"1-1",
             b"\xff", rb"\ud83d", rb'"\u12"', b"[" * 2_000]
)  # fmt: skip
def test_what_no_replacement_repairs_is_no_json(sent: bytes) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        loads(sent)


@given(st.recursive(st.text() | st.integers(-(2**53), 2**53) | st.none(), st.lists))
def test_sound_json_is_the_very_bytes(value: object) -> None:
    sent = json.dumps(value, separators=(" , ", ":")).encode()
    if "\ud800" <= max(sent.decode()) <= "\udfff":
        return
    value_read, said = loads(sent)
    assert said is sent
    assert value_read == json.loads(sent)


@given(st.text(st.characters(categories=["Cs", "L", "P"])))
def test_any_text_is_read_as_python_reads_it_but_for_lone_surrogates(text: str) -> None:
    """Pairs of escapes are one character, halves U+FFFD."""
    sent = json.dumps(text).encode()
    paired = json.loads(sent).encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    expected = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in paired)
    assert loads(sent)[0] == expected


@pytest.mark.parametrize(
    "piece", [b'\\"', b'"', b"\\ud83d", b"NaN,", b"\xff", b"1e999,", b'"a",', b"\\"]
)
def test_hostile_bytes_cost_linear_time(piece: bytes) -> None:
    """Ten times the bytes take some ten times the time, not a hundred."""

    def seconds(size: int) -> float:
        sent = b'["' + piece * (size // len(piece))
        started = time.process_time()
        with pytest.raises(orjson.JSONDecodeError):
            loads(sent)
        return time.process_time() - started

    assert seconds(300_000) < 40 * max(seconds(30_000), 0.005)
