"""Framing: bytes that the standards' own readers take back for what went in."""

from __future__ import annotations

import random
import zlib

import httpx_sse._decoders as httpx_sse_decoders
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Frame, Opcode
from websockets.streams import StreamReader

from streaming_api.wire.framing import (
    BINARY,
    CHUNKED_EVENTS,
    CHUNKED_OPENAI,
    CLOSE,
    COMPRESS_FROM,
    DEFLATED_WEBSOCKET,
    EVENTS,
    GZIP_EVENTS,
    GZIP_HEADER,
    OPENAI,
    PING,
    PONG,
    TEXT,
    WEBSOCKET,
    Framing,
    chunk,
    close_frame,
    deflate,
    frame,
    gzip_end,
    stored,
)
from streaming_api.wire.messages import Encoder, Message

EDGES = (0, 1, 125, 126, 127, 65_535, 65_536, 70_000)


def message(text: str = "Hello", number: int = 1) -> Message:
    data = orjson.dumps({"text": text})
    return Encoder("chat_completion", "chat/r", "r", "r").encode(number, data, 0.0)


def parse(data: bytes, extensions: list[PerMessageDeflate] | None = None) -> list[Frame]:
    """Frames, as the `websockets` package reads them on a client's side."""
    reader = StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    frames: list[Frame] = []
    while True:
        at_end = reader.at_eof()
        try:
            while True:
                next(at_end)
        except StopIteration as stop:
            if stop.value:
                return frames
        parsing = Frame.parse(reader.read_exact, mask=False, extensions=extensions)
        try:
            while True:
                next(parsing)
        except StopIteration as stop:
            frames.append(stop.value)


def unchunk(data: bytes) -> bytes:
    """The body that HTTP/1.1 chunks carry. RFC 9112 section 7.1."""
    body = b""
    while data:
        size, _, rest = data.partition(b"\r\n")
        count = int(size, 16)
        assert rest[count : count + 2] == b"\r\n"
        body += rest[:count]
        data = rest[count + 2 :]
    return body


def read_events(text: bytes) -> list[tuple[str, str, str]]:
    """(event, id, data), as the `httpx-sse` package reads them."""
    decoder = httpx_sse_decoders.SSEDecoder()
    found = [decoder.decode(line) for line in text.decode().split("\n")[:-1]]
    return [(event.event, event.id, event.data) for event in found if event is not None]


class TestWebSocket:
    @pytest.mark.parametrize("size", EDGES)
    def test_a_text_of_any_size_is_one_final_unmasked_frame(self, size: int) -> None:
        (read,) = parse(frame(b"x" * size))
        assert (read.opcode, read.data, read.fin) == (Opcode.TEXT, b"x" * size, True)
        assert (read.rsv1, read.rsv2, read.rsv3) == (False, False, False)

    @pytest.mark.parametrize("opcode", [TEXT, BINARY, CLOSE, PING, PONG])
    def test_each_opcode_is_the_one_asked_for(self, opcode: int) -> None:
        (read,) = parse(frame(b"\x03\xe8", opcode))
        assert read.opcode == opcode

    @pytest.mark.parametrize("code", [1000, 1001, 1007, 1008, 1009, 1011, 1012, 1013])
    def test_a_close_frame_carries_code_and_reason(self, code: int) -> None:
        (read,) = parse(close_frame(code, "come back"))
        closed = Close.parse(read.data)
        assert (closed.code, closed.reason) == (code, "come back")

    @example("ü" * 62)
    @example("🌍" * 40)
    @given(st.text(max_size=200))
    def test_a_long_reason_is_cut_between_characters(self, reason: str) -> None:
        (read,) = parse(close_frame(1000, reason))
        assert len(read.data) <= 125
        shown = Close.parse(read.data).reason
        assert reason.startswith(shown)
        assert shown == reason or len(shown.encode()) > 123 - 4

    def test_a_batch_is_its_messages_one_after_the_other(self) -> None:
        batch = [message("a", 1), message("b" * 300, 2)]
        read = parse(WEBSOCKET.batch(batch))
        assert [found.data for found in read] == [found.payload for found in batch]

    def test_a_notice_is_a_frame_of_its_own(self) -> None:
        (read,) = parse(WEBSOCKET.notice(b"{}", "alert"))
        assert read.data == b"{}"


class TestDeflate:
    @pytest.mark.parametrize("bits", sorted(DEFLATED_WEBSOCKET))
    def test_each_window_is_understood_by_a_client_that_agreed_to_it(self, bits: int) -> None:
        """One receiver, no context between messages; texts longer than its window."""
        extension = PerMessageDeflate(
            remote_no_context_takeover=True,
            local_no_context_takeover=True,
            remote_max_window_bits=bits,
            local_max_window_bits=15,
        )
        far = random.Random(7).randbytes(700).hex()  # comes again further back than it reaches
        texts = ("spam", "spam and eggs, " * 5_000, far * 30)
        batch = [message(text, number) for number, text in enumerate(texts, 1)]
        read = parse(DEFLATED_WEBSOCKET[bits].batch(batch), [extension])
        assert [found.data for found in read] == [found.payload for found in batch]

    def test_what_is_short_is_not_compressed(self) -> None:
        short = message("x")
        assert len(short.payload) < COMPRESS_FROM
        assert DEFLATED_WEBSOCKET[15].message(short) == WEBSOCKET.message(short)

    def test_what_is_long_is_smaller_and_marked(self) -> None:
        long = message("spam " * 1_000)
        framed = DEFLATED_WEBSOCKET[15].message(long)
        assert framed[0] & 0x40
        assert len(framed) < len(long.payload) / 10

    @given(st.binary(max_size=3_000), st.sampled_from(range(9, 16)))
    def test_a_run_of_blocks_stands_for_itself(self, payload: bytes, bits: int) -> None:
        """A decompressor that has seen nothing before reads it, and one that has, too."""
        fresh = zlib.decompressobj(-bits)
        assert fresh.decompress(deflate(payload, bits)) == payload
        assert fresh.decompress(deflate(payload, bits)) == payload

    @pytest.mark.parametrize("size", [*EDGES, 65_535 * 2, 65_535 * 2 + 1])
    def test_stored_blocks_are_deflate(self, size: int) -> None:
        payload = bytes(range(256)) * (size // 256 + 1)
        decompressor = zlib.decompressobj(-15)
        assert decompressor.decompress(stored(payload[:size])) == payload[:size]


class TestEvents:
    def test_an_event_has_type_id_and_data(self) -> None:
        one = message("a\nb")
        read = read_events(EVENTS.message(one))
        assert read == [("chat_completion", "r:1", one.payload.decode())]

    def test_a_notice_has_a_type_and_leaves_the_id_as_it_was(self) -> None:
        text = EVENTS.message(message()) + EVENTS.notice(b"{}", "alert")
        assert read_events(text)[-1] == ("alert", "r:1", "{}")

    def test_chunks_carry_the_same_events(self) -> None:
        batch = [message("a", 1), message("b" * 70_000, 2)]
        assert unchunk(CHUNKED_EVENTS.batch(batch)) == EVENTS.batch(batch)
        assert unchunk(CHUNKED_EVENTS.notice(b"{}", "alert")) == EVENTS.notice(b"{}", "alert")

    @pytest.mark.parametrize("size", EDGES[1:])
    def test_a_chunk_says_its_size_in_hexadecimal(self, size: int) -> None:
        assert unchunk(chunk(b"x" * size)) == b"x" * size


class TestGzip:
    @given(st.lists(st.text(max_size=40) | st.text(min_size=600, max_size=900), max_size=8))
    def test_a_stream_of_shared_blocks_is_one_valid_gzip_file(self, texts: list[str]) -> None:
        """Checksum and length are the connection's own; zlib refuses a wrong one."""
        plain, body = b"", GZIP_HEADER
        for number, text in enumerate(texts, 1):
            one = message(text, number)
            body += unchunk(GZIP_EVENTS.message(one))
            plain += GZIP_EVENTS.plain([one])
        body += unchunk(GZIP_EVENTS.notice(b"{}", "alert"))
        plain += EVENTS.notice(b"{}", "alert")
        body += gzip_end(zlib.crc32(plain), len(plain))
        decompressor = zlib.decompressobj(31)
        assert decompressor.decompress(body) == plain
        assert decompressor.eof
        assert not decompressor.unused_data

    def test_each_event_can_be_read_as_soon_as_it_is_there(self) -> None:
        decompressor = zlib.decompressobj(31)
        decompressor.decompress(GZIP_HEADER)
        for text in ("short", "long " * 500):
            one = message(text)
            assert decompressor.decompress(unchunk(GZIP_EVENTS.message(one))) == EVENTS.message(one)

    def test_a_batch_is_compressed_as_one(self) -> None:
        batch = [message("many words " * 60, number) for number in range(5)]
        body = unchunk(GZIP_EVENTS.batch(batch))
        decompressor = zlib.decompressobj(31)
        assert decompressor.decompress(GZIP_HEADER + body) == EVENTS.batch(batch)
        assert len(body) < 2 * len(unchunk(GZIP_EVENTS.message(batch[0])))

    def test_a_length_above_four_gibibytes_wraps(self) -> None:
        assert gzip_end(0, 2**32 + 5)[-4:] == b"\x05\x00\x00\x00"

    @pytest.mark.parametrize("framing", [WEBSOCKET, EVENTS, CHUNKED_EVENTS, OPENAI])
    def test_events_that_are_not_compressed_have_no_window(self, framing: Framing) -> None:
        assert GZIP_EVENTS.has_window
        assert not framing.has_window


class TestOpenAI:
    def test_a_chunk_is_the_upstreams_own_data_and_an_id_that_sdks_pass_over(self) -> None:
        said = message("a")
        shown = OPENAI.message(said)
        assert shown.endswith(b'data: {"text":"a"}\n\n')
        assert (
            shown.partition(b"\n")[0] == said.event_head.partition(b"\n")[2] + b"%d" % said.number
        )

    def test_our_end_message_is_not_shown(self) -> None:
        end = message("bye")
        end.final = True
        assert OPENAI.message(end) == b""
        assert CHUNKED_OPENAI.message(end) == b"", "an empty chunk would end the response"

    def test_a_notice_is_a_comment_that_a_client_skips(self) -> None:
        assert OPENAI.notice(b"{}", "alert").startswith(b": {}\n")
        text = unchunk(CHUNKED_OPENAI.notice(b"{}", "alert")) + OPENAI.message(message("a"))
        assert [data for _, _, data in read_events(text)] == ['{"text":"a"}']

    def test_chunks_carry_the_same_bytes(self) -> None:
        batch = [message("a", 1), message("b", 2)]
        assert unchunk(CHUNKED_OPENAI.batch(batch)) == OPENAI.batch(batch)
