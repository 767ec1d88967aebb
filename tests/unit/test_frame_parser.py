"""Client frames: any split gives the same messages, any bytes nothing but a Violation."""

from __future__ import annotations

import os
import random
import sys
import tracemalloc
import zlib
from itertools import pairwise

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming_api.wire.frame_parser import (
    INVALID_TEXT,
    POLICY,
    PROTOCOL_ERROR,
    TOO_BIG,
    FrameParser,
    Received,
    Violation,
)
from streaming_api.wire.framing import BINARY, CLOSE, PING, PONG, TEXT

CONTINUATION = 0
MIB = 2**20
TAIL = b"\x00\x00\xff\xff"


def client_frame(
    payload: bytes = b"",
    opcode: int = TEXT,
    *,
    final: bool = True,
    compressed: bool = False,
    mask: bytes = b"\x11\x22\x33\x44",
) -> bytes:
    """A frame as a client sends it: masked. Written byte by byte, unlike what it tests."""
    size = len(payload)
    head = bytes([(0x80 if final else 0) | (0x40 if compressed else 0) | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65_536:
        head += b"\xfe" + size.to_bytes(2, "big")
    else:
        head += b"\xff" + size.to_bytes(8, "big")
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return head + mask + masked


def raw_deflate(payload: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return data.removesuffix(TAIL)


def feed(parser: FrameParser, data: bytes) -> list[Received]:
    return list(parser.feed(data))


def parse(data: bytes, *, limit: int = MIB, deflate: bool = True) -> list[Received]:
    return feed(FrameParser(limit, deflate=deflate), data)


CODES = {None, PROTOCOL_ERROR, INVALID_TEXT, POLICY, TOO_BIG}


def feed_until_refused(
    parser: FrameParser, chunks: list[bytes]
) -> tuple[list[Received], int | None]:
    """What comes out before a violation, and its code; any other error is the test's."""
    received = []
    try:
        for chunk in chunks:
            for one in parser.feed(chunk):
                received.append(one)  # noqa: PERF402 (extend would lose what came before a fault)
    except Violation as violation:
        return received, violation.code
    return received, None


def refused(data: bytes, *, limit: int = MIB, deflate: bool = True) -> int:
    """The close code that these bytes are answered with."""
    with pytest.raises(Violation) as caught:
        parse(data, limit=limit, deflate=deflate)
    assert caught.value.reason
    return caught.value.code


@attrs.frozen
class Sent:
    """One message of a client, fragmented and interleaved somehow, and what should come out."""

    wire: bytes
    received: list[Received]


@st.composite
def one_message(draw: st.DrawFn) -> Sent:
    text = draw(st.booleans())
    payload = draw(st.text(max_size=300)).encode() if text else draw(st.binary(max_size=300))
    compressed = draw(st.booleans())
    body = raw_deflate(payload) if compressed else payload
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=4)))
    pieces = [body[a:b] for a, b in pairwise([0, *cuts, len(body)])]
    wire, received = b"", []
    for at, piece in enumerate(pieces):
        for opcode in draw(st.lists(st.sampled_from([PING, PONG]), max_size=2)):
            control = draw(st.binary(max_size=125))
            wire += client_frame(control, opcode)
            received.append(Received(opcode, control))
        wire += client_frame(
            piece,
            CONTINUATION if at else TEXT if text else BINARY,
            final=at == len(pieces) - 1,
            compressed=compressed and not at,
            mask=draw(st.binary(min_size=4, max_size=4)),
        )
    return Sent(wire, [*received, Received(TEXT if text else BINARY, payload)])


class TestAnySplit:
    @given(st.lists(one_message(), max_size=4), st.data())
    def test_any_split_of_valid_frames_gives_the_same_messages(
        self, sent: list[Sent], data: st.DataObject
    ) -> None:
        wire = b"".join(message.wire for message in sent)
        cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=12).map(sorted))
        parser = FrameParser(MIB, deflate=True)
        received = []
        for a, b in pairwise([0, *cuts, len(wire)]):
            received += feed(parser, wire[a:b])
        assert received == [one for message in sent for one in message.received]

    def test_byte_by_byte_is_a_split_too(self) -> None:
        wire = client_frame("Grüße, 世界 🌍".encode()) + client_frame(b"x" * 70_000, BINARY)
        parser = FrameParser(MIB, deflate=False)
        received = [one for at in range(len(wire)) for one in parser.feed(wire[at : at + 1])]
        assert [one.payload for one in received] == ["Grüße, 世界 🌍".encode(), b"x" * 70_000]

    def test_what_was_whole_before_a_fault_is_delivered_first(self) -> None:
        parser = FrameParser(MIB, deflate=False)
        feeding = parser.feed(client_frame(b"good") + client_frame(b"", 0x3))
        assert next(feeding).payload == b"good"
        with pytest.raises(Violation):
            next(feeding)

    def test_a_consumer_that_stops_has_not_taken_what_follows(self) -> None:
        parser = FrameParser(MIB, deflate=False)
        feeding = parser.feed(client_frame(b"1") + client_frame(b"2"))
        assert next(feeding).payload == b"1"
        feeding.close()  # type: ignore[attr-defined]
        assert [one.payload for one in parser.feed(b"")] == [b"2"]


class TestAnyBytes:
    @settings(max_examples=300)
    @given(st.lists(st.binary(max_size=60), max_size=20), st.booleans())
    def test_any_bytes_raise_nothing_but_a_violation(
        self,
        chunks: list[bytes],
        deflate: bool,  # noqa: FBT001
    ) -> None:
        received, code = feed_until_refused(FrameParser(1_000, deflate=deflate), chunks)
        assert all(len(one.payload) <= 1_000 for one in received)
        assert code in CODES

    @settings(max_examples=300)
    @given(
        st.lists(
            st.builds(
                client_frame,
                st.binary(max_size=150) | st.binary(max_size=150).map(raw_deflate),
                st.integers(0, 15),
                final=st.booleans(),
                compressed=st.booleans(),
            ),
            max_size=12,
        )
    )
    def test_masked_frames_of_any_kind_raise_nothing_but_a_violation(
        self, frames: list[bytes]
    ) -> None:
        received, code = feed_until_refused(FrameParser(400, deflate=True), frames)
        assert all(len(one.payload) <= 400 for one in received)
        assert all(one.payload.decode() is not None for one in received if one.opcode == TEXT)
        assert code in CODES


class TestSizes:
    @pytest.mark.parametrize("compressed", [False, True])
    def test_exactly_the_limit_is_accepted_and_one_byte_more_is_not(
        self, *, compressed: bool
    ) -> None:
        for extra, body in ((0, os.urandom(MIB)), (1, os.urandom(MIB + 1))):
            wire = client_frame(
                raw_deflate(body) if compressed else body, BINARY, compressed=compressed
            )
            if extra:
                assert refused(wire) == TOO_BIG
            else:
                assert [one.payload for one in parse(wire)] == [body]

    def test_the_limit_holds_for_a_message_in_fragments(self) -> None:
        wire = client_frame(b"x" * 600, final=False) + client_frame(b"x" * 400, CONTINUATION)
        assert len(parse(wire, limit=1_000)[0].payload) == 1_000
        assert refused(wire, limit=999) == TOO_BIG

    def test_a_ping_inside_a_message_that_is_full_is_no_part_of_it(self) -> None:
        wire = (
            client_frame(b"x" * 1_000, final=False)
            + client_frame(b"p" * 125, PING)
            + client_frame(b"", CONTINUATION)
        )
        assert [one.opcode for one in parse(wire, limit=1_000)] == [PING, TEXT]

    def test_a_declared_length_is_refused_before_a_byte_of_it_is_there(self) -> None:
        assert refused(b"\x81\xff" + (2**62).to_bytes(8, "big")) == TOO_BIG
        assert refused(b"\x81\xff" + (MIB + 1).to_bytes(8, "big")) == TOO_BIG
        assert refused(b"\x81\xfe" + (2_000).to_bytes(2, "big"), limit=1_000) == TOO_BIG

    def test_a_length_with_its_highest_bit_set_is_no_length(self) -> None:
        assert refused(b"\x81\xff" + (2**63).to_bytes(8, "big")) == PROTOCOL_ERROR

    def test_a_deflate_bomb_is_refused(self) -> None:
        bomb = raw_deflate(b"\x00" * 64 * MIB)
        assert len(bomb) < MIB
        assert refused(client_frame(bomb, BINARY, compressed=True)) == TOO_BIG

    def test_a_deflate_bomb_is_never_unpacked(self) -> None:
        wire = client_frame(raw_deflate(b"\x00" * 64 * MIB), BINARY, compressed=True)
        tracemalloc.start()
        try:
            assert refused(wire) == TOO_BIG
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 8 * MIB

    def test_a_bomb_in_fragments_is_refused_at_the_fragment_that_goes_off(self) -> None:
        bomb = raw_deflate(b"\x00" * 2 * MIB)
        parser = FrameParser(MIB, deflate=True)
        with pytest.raises(Violation) as caught:
            feed(parser, client_frame(bomb, BINARY, final=False, compressed=True))
        assert caught.value.code == TOO_BIG


def held_after(parser: FrameParser, data: bytes, times: int) -> int:
    """Bytes of Python's memory that feeding this so often has left behind."""
    feed(parser, data)
    tracemalloc.start()
    try:
        for _ in range(times):
            feed(parser, data)
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


class TestMemory:
    def test_small_fragments_cost_what_they_hold(self) -> None:
        parser = FrameParser(MIB, deflate=False)
        feed(parser, client_frame(b"xx", BINARY, final=False))
        held = held_after(parser, client_frame(b"xx", CONTINUATION, final=False), 20_000)
        assert held < 4 * 40_000, "not an object for each fragment"

    def test_endless_empty_fragments_are_refused(self) -> None:
        fragments = client_frame(b"", CONTINUATION, final=False) * 50_000
        assert refused(client_frame(b"", final=False) + fragments) == POLICY

    def test_endless_fragments_that_inflate_to_nothing_are_refused(self) -> None:
        """An empty stored block: it has bytes, and carries none."""
        fragments = client_frame(b"\x00" + TAIL, CONTINUATION, final=False) * 5_000
        start = client_frame(b"\x00" + TAIL, BINARY, final=False, compressed=True)
        assert refused(start + fragments) == POLICY

    def test_data_behind_the_end_of_a_deflate_stream_is_refused(self) -> None:
        """zlib keeps what follows a final block for ever, and copies it each time."""
        compressor = zlib.compressobj(wbits=-15)
        ended = compressor.compress(b"Hello") + compressor.flush(zlib.Z_FINISH)
        start = client_frame(ended, final=False, compressed=True)
        assert (
            refused(start + client_frame(b"x" * 1_000, CONTINUATION, final=False)) == INVALID_TEXT
        )
        assert refused(client_frame(ended + b"x" * 10, compressed=True)) == INVALID_TEXT

    def test_a_deflate_stream_that_its_sender_ended_is_understood(self) -> None:
        """RFC 7692 section 7.2.3.5, its very bytes."""
        body = bytes.fromhex("f348cdc9c907 00 00")
        assert parse(client_frame(body, compressed=True)) == [Received(TEXT, b"Hello")]

    def test_nothing_large_is_kept_after_a_large_message(self) -> None:
        parser = FrameParser(MIB, deflate=True)
        wire = client_frame(b"x" * MIB, BINARY)
        assert held_after(parser, wire, 2) < 10_000
        assert sys.getsizeof(parser._buffer) < 1_000

    def test_a_frame_in_many_pieces_is_not_parsed_over_and_over(self) -> None:
        """Quadratic work would take minutes here, not a moment."""
        wire = client_frame(b"x" * 500_000, BINARY)
        parser = FrameParser(MIB, deflate=False)
        pieces = (wire[at : at + 16] for at in range(0, len(wire), 16))
        assert sum(len(feed(parser, piece)) for piece in pieces) == 1


class TestViolations:
    @pytest.mark.parametrize(
        ("wire", "code"),
        [
            pytest.param(b"\x81\x05Hello", PROTOCOL_ERROR, id="unmasked"),
            pytest.param(client_frame(b"", 0x3), PROTOCOL_ERROR, id="opcode 3"),
            pytest.param(client_frame(b"", 0x7), PROTOCOL_ERROR, id="opcode 7"),
            pytest.param(client_frame(b"", 0xB), PROTOCOL_ERROR, id="opcode 11"),
            pytest.param(client_frame(b"", 0xF), PROTOCOL_ERROR, id="opcode 15"),
            pytest.param(client_frame(b"a", CONTINUATION), PROTOCOL_ERROR, id="of nothing"),
            pytest.param(client_frame(b"x" * 126, PING), PROTOCOL_ERROR, id="long ping"),
            pytest.param(client_frame(b"", PING, final=False), PROTOCOL_ERROR, id="half a ping"),
            pytest.param(client_frame(b"", PING, compressed=True), PROTOCOL_ERROR, id="flat ping"),
            pytest.param(client_frame(b"a", final=False) + client_frame(b"b"), PROTOCOL_ERROR,
                         id="a message inside another"),
            pytest.param(client_frame(b"a", final=False)
                         + client_frame(b"b", CONTINUATION, compressed=True), PROTOCOL_ERROR,
                         id="compressed half-way"),
            pytest.param(client_frame(b"\xff"), INVALID_TEXT, id="not UTF-8"),
            pytest.param(client_frame(b"\xed\xa0\x80"), INVALID_TEXT, id="a surrogate"),
            pytest.param(client_frame("ü".encode()[:1]), INVALID_TEXT, id="half a character"),
            pytest.param(client_frame(b"\xff", compressed=True), INVALID_TEXT, id="no deflate"),
            pytest.param(client_frame(raw_deflate(b"\xff"), compressed=True), INVALID_TEXT,
                         id="deflated, not UTF-8"),
        ],
    )  # fmt: skip
    def test_a_violation_has_the_code_that_the_standard_gives_it(
        self, wire: bytes, code: int
    ) -> None:
        assert refused(wire) == code

    @pytest.mark.parametrize("bit", [0x40, 0x20, 0x10])
    def test_a_reserved_bit_that_nobody_agreed_on_is_a_violation(self, bit: int) -> None:
        wire = bytearray(client_frame(b"a"))
        wire[0] |= bit
        assert refused(bytes(wire), deflate=False) == PROTOCOL_ERROR

    def test_text_that_goes_wrong_is_refused_before_it_has_ended(self) -> None:
        assert refused(client_frame(b"good\xff", final=False)) == INVALID_TEXT

    def test_a_character_split_between_fragments_is_whole(self) -> None:
        one, other = "ü".encode()[:1], "ü".encode()[1:]
        wire = client_frame(one, final=False) + client_frame(other, CONTINUATION)
        assert parse(wire) == [Received(TEXT, "ü".encode())]

    def test_the_header_alone_is_enough_to_refuse(self) -> None:
        assert refused(b"\x81\x00") == PROTOCOL_ERROR

    def test_a_violation_says_what_was_wrong(self) -> None:
        with pytest.raises(Violation, match="masked"):
            parse(b"\x81\x00")


class TestClose:
    @pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 4999])
    def test_a_close_code_that_may_be_sent_is_taken(self, code: int) -> None:
        payload = code.to_bytes(2, "big") + "Tschüß".encode()
        assert parse(client_frame(payload, CLOSE)) == [Received(CLOSE, payload)]

    def test_a_close_without_a_code_is_taken(self) -> None:
        assert parse(client_frame(b"", CLOSE)) == [Received(CLOSE, b"")]

    @pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535])
    def test_a_close_code_that_may_not_be_sent_is_refused(self, code: int) -> None:
        assert refused(client_frame(code.to_bytes(2, "big"), CLOSE)) == PROTOCOL_ERROR

    def test_half_a_close_code_is_refused(self) -> None:
        assert refused(client_frame(b"\x03", CLOSE)) == PROTOCOL_ERROR

    def test_a_close_reason_that_is_no_text_is_refused(self) -> None:
        assert refused(client_frame(b"\x03\xe8\xff", CLOSE)) == INVALID_TEXT


def test_a_hundred_thousand_mutations_of_valid_frames_raise_nothing_else() -> None:
    """A short run of a fuzzer: valid traffic with a few bytes changed. The seed is fixed."""
    chance = random.Random(7)
    seeds = [
        client_frame(b'{"message_type":"alert"}'),
        client_frame(raw_deflate(b"spam " * 50), compressed=True),
        client_frame(b"a", final=False)
        + client_frame(b"", PING)
        + client_frame(b"b", CONTINUATION),
        client_frame(b"\x03\xe8bye", CLOSE),
    ]
    for _ in range(100_000 // len(seeds)):
        for seed in seeds:
            wire = bytearray(seed)
            for _ in range(chance.randint(1, 4)):
                wire[chance.randrange(len(wire))] = chance.randrange(256)
            _, code = feed_until_refused(FrameParser(1_000, deflate=True), [bytes(wire)])
            assert code in CODES
