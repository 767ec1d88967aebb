"""Messages: one valid encoding, honest timestamps, cursors out of hostile text."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_api.wire import messages
from streaming_api.wire.messages import (
    CHAT,
    MESSAGE_TYPES,
    METRICS,
    STATUS,
    BareEncoder,
    Clock,
    Encoder,
    Message,
    notice,
    parse_cursor,
)
from tests.clients import valid

JSON_OBJECTS = st.dictionaries(
    st.text(),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


def chat_message(number: int = 7, data: bytes = b'{"a":1}') -> Message:
    return Encoder(CHAT, "chat/r-1", "r-1", "r-1").encode(number, data, 12.5)


class TestEncoder:
    def test_a_chat_message_has_every_field_of_the_contract(self) -> None:
        message = valid(chat_message().payload)
        del message["timestamp"]
        assert message == {
            "message_type": "chat_completion",
            "stream_id": "chat/r-1",
            "request_id": "r-1",
            "cursor": "r-1:7",
            "sequence_id": 7,
            "data": {"a": 1},
        }

    def test_of_a_stream_of_another_wire_there_is_no_envelope(self) -> None:
        encoder = BareEncoder(CHAT, "responses/r", "r", "r")
        one, two = encoder.encode_all(4, [b'{"a":1}', b'{"data":2}'], 0.5)
        again = encoder.again(5, two.payload, 0.5)
        alone = encoder.encode(6, b"{}", 0.5, cursor=9)
        assert [message.payload for message in (one, two, again, alone)] == [
            b'{"a":1}', b'{"data":2}', b'{"data":2}', b"{}",
        ]  # fmt: skip
        assert [message.data for message in (two, again)] == [b'{"data":2}'] * 2
        assert [(m.number, m.cursor) for m in (one, two, again, alone)] == [
            (4, 4), (5, 5), (5, 5), (6, 9),
        ]  # fmt: skip

    def test_a_message_of_a_topic_has_no_request_id(self) -> None:
        message = valid(Encoder(METRICS, "metrics", "ab12").encode(3, b"{}", 0.0).payload)
        assert "request_id" not in message
        assert message["cursor"] == "ab12:3"

    @given(data=JSON_OBJECTS, number=st.integers(0, 10**18 - 1))
    def test_any_object_goes_in_and_comes_out_unchanged(
        self, data: dict[str, Any], number: int
    ) -> None:
        encoded = orjson.dumps(data)
        message = Encoder(CHAT, "chat/x", "x", "x").encode(number, encoded, 0.0)
        assert valid(message.payload)["data"] == data
        assert message.data == encoded
        assert parse_cursor(valid(message.payload)["cursor"]) == ("x", number)

    def test_the_lines_before_the_data_name_the_type_and_whose_cursor_it_is(self) -> None:
        assert chat_message().event_head == b"event: chat_completion\nid: r-1:"

    def test_a_snapshot_can_leave_its_client_where_it_was(self) -> None:
        message = Encoder(STATUS, "status", "ab").encode(9, b"{}", 0.0, cursor=4)
        assert valid(message.payload)["cursor"] == "ab:4"
        assert valid(message.payload)["sequence_id"] == 9
        assert message.cursor == 4

    def test_a_payload_is_one_line(self) -> None:
        payload = chat_message(data=orjson.dumps({"text": "a\r\nb\u2028c\x85"})).payload
        assert b"\n" not in payload
        assert b"\r" not in payload

    def test_a_stream_named_with_quotes_stays_valid(self) -> None:
        encoder = Encoder(CHAT, 'chat/"\\', "x", '"\\')
        assert valid(encoder.encode(1, b"{}", 0.0).payload)["stream_id"] == 'chat/"\\'

    def test_a_message_is_not_the_last_unless_said(self) -> None:
        assert chat_message().final is False


class TestTimestamps:
    def test_now_is_now_in_utc_with_milliseconds(self) -> None:
        before = datetime.now(UTC)
        text = messages.timestamp().decode()
        assert len(text) == len("2026-01-31T12:00:00.000Z")
        assert text.endswith("Z")
        written = datetime.fromisoformat(text)
        assert before - timedelta(milliseconds=1) <= written <= datetime.now(UTC)

    @given(st.lists(st.integers(0, 4_000_000_000_000), min_size=1, max_size=20))
    def test_a_clock_that_jumps_is_followed(self, milliseconds: list[int]) -> None:
        """Kept texts of the second and of the millisecond never outlive their time."""
        clock = Clock()
        now = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "time_ns", lambda: now)
            for millisecond in milliseconds:
                now = millisecond * 1_000_000 + 999_999
                written = datetime.fromisoformat(clock().decode())
                assert written == datetime.fromtimestamp(millisecond // 1000, UTC) + timedelta(
                    milliseconds=millisecond % 1000
                )


class TestNotices:
    @pytest.mark.parametrize("message_type", MESSAGE_TYPES)
    def test_a_notice_is_valid_and_has_no_number(self, message_type: str) -> None:
        message = valid(notice(message_type, {"event": "draining"}))
        assert set(message) == {"message_type", "timestamp", "data"}

    def test_a_notice_of_an_answer_names_it(self) -> None:
        message = valid(notice(CHAT, {"event": "queued"}, stream="chat/r", request_id="r"))
        assert (message["stream_id"], message["request_id"]) == ("chat/r", "r")
        assert "sequence_id" not in message


class TestCursors:
    @given(
        epoch=st.from_regex(r"[A-Za-z0-9_.-]{1,128}", fullmatch=True),
        number=st.integers(0, 10**18 - 1),
    )
    def test_a_cursor_of_ours_is_read_back(self, epoch: str, number: int) -> None:
        assert parse_cursor(f"{epoch}:{number}") == (epoch, number)

    @given(st.text())
    def test_any_text_is_a_cursor_or_none_and_never_an_error(self, text: str) -> None:
        parsed = parse_cursor(text)
        if parsed is not None:
            epoch, number = parsed
            assert text.partition(":")[0] == epoch
            assert 0 <= number < 10**18

    @pytest.mark.parametrize(
        "text",
        ["", ":", "a", "a:", ":1", "a:-1", "a:+1", "a:1.0", "a:1e3", "a: 1", "a:1 ", "a:1\n",
         "a:1:2", "a:٣", "a:²", "a:0x1", "a:" + "9" * 19, "a" * 129 + ":1", "ä:1",
         "a\x00:1", "a/b:1", "a:1\r\ndata: x"],
    )  # fmt: skip
    def test_what_is_no_cursor_is_refused(self, text: str) -> None:
        assert parse_cursor(text) is None
