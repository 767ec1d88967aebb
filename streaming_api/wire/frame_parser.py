"""Client frames: bytes in, whole messages out. RFC 6455 and RFC 7692, the server's side. Pure.

What a client must not do raises `Violation` with the close code that RFC 6455 section 7.4.1 gives
it; nothing here trusts a length before the bytes are there, and no message is ever held beyond the
limit, compressed or not.
"""

from __future__ import annotations

import codecs
import math
import zlib
from collections.abc import Iterator
from typing import Final

import attrs

from streaming_api.wire.framing import BINARY, CLOSE, PONG, TEXT

_CONTINUATION: Final = 0x0
_TAIL: Final = b"\x00\x00\xff\xff"
_EMPTY_FRAGMENTS: Final = 1_000
"""Empty fragments that a message may have: they carry nothing and cost as much as others."""
_INFLATER: Final = 40 * 2**10
"""Bytes that zlib holds for a message under way: its window, 32 KiB, and its tables (zlib.h)."""
_AFTER_END: Final = 5
"""Bytes that may follow a deflate stream that its sender ended: RFC 7692 7.2.3.5 and ``_TAIL``."""

NORMAL: Final = 1000
PROTOCOL_ERROR: Final = 1002
INVALID_TEXT: Final = 1007
POLICY: Final = 1008
TOO_BIG: Final = 1009


class Violation(Exception):
    """The client broke the protocol: close with ``code``."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@attrs.frozen
class Received:
    """One whole message or control frame.

    Attributes:
        opcode: TEXT, BINARY, CLOSE, PING or PONG.
        payload: unmasked and decompressed; that of TEXT is valid UTF-8.
    """

    opcode: int
    payload: bytes


class FrameParser:
    """One client's frames.

    Args:
        limit: bytes that one message may have; a message of exactly this size is accepted.
        deflate: whether permessage-deflate was negotiated (client_no_context_takeover, so that no
            window is kept between messages).

    Attributes:
        frames: the number of frames that the last `feed` read.
        inflated: bytes of payload, decompressed, that the last `feed` read.
        unfinished: whether the last `feed` reached its limits before everything was read.
    """

    __slots__ = (
        "_buffer", "_compressed", "_decoder", "_deflate", "_empty", "_inflater", "_limit",
        "_message", "_opcode", "frames", "inflated", "unfinished",
    )  # fmt: skip

    def __init__(self, limit: int, *, deflate: bool) -> None:
        self._limit = limit
        self._deflate = deflate
        self._buffer = bytearray()
        self._opcode = 0  # that of the message under way; 0 for none
        self._compressed = False
        self._message = bytearray()  # the part of it that has arrived
        self._empty = 0
        self._inflater: zlib._Decompress | None = None
        self._decoder: codecs.IncrementalDecoder | None = None
        self.frames = 0
        self.inflated = 0
        self.unfinished = False

    @property
    def held(self) -> int:
        """Bytes of memory that wait here for the rest of their frame or message."""
        inflating = 0 if self._inflater is None else _INFLATER
        return len(self._buffer) + len(self._message) + inflating

    def keep(self, data: bytes) -> None:
        """Take bytes for the next `feed`."""
        self._buffer += data

    def feed(
        self, data: bytes, most_frames: float = math.inf, most_bytes: float = math.inf
    ) -> Iterator[Received]:
        """Yield the messages and control frames that these bytes complete.

        Args:
            data: the bytes received.
            most_frames: how many frames may be read before the rest is left for the next call.
            most_bytes: the same in bytes of decompressed payload; checked after each frame.

        Raises:
            Violation: the client broke the protocol; all that was complete before is yielded.
        """
        buffer = self._buffer
        buffer += data
        self.frames = self.inflated = 0
        self.unfinished = False
        while (header := self._header(buffer)) is not None:
            first, size, body = header
            end = body + 4 + size
            if len(buffer) < end:
                break
            if self.frames >= most_frames or self.inflated >= most_bytes:
                self.unfinished = True
                break
            self.frames += 1
            payload = _unmask(buffer[body + 4 : end], bytes(buffer[body : body + 4]))
            # Before the yield: compiled, nothing happens at the end of a generator that is left.
            del buffer[:end]  # which moves nothing
            received = self._frame(first, payload)
            if received is not None:
                yield received

    def _header(self, buffer: bytearray) -> tuple[int, int, int] | None:
        """Return first byte, payload length and start of the mask; None until all is here."""
        have = len(buffer)
        if have < 2:
            return None
        first, second = buffer[0], buffer[1]
        size = second & 0x7F
        self._check(first, second, size)
        if size < 126:
            return first, size, 2
        width = 2 if size == 126 else 8
        if have < 2 + width:
            return None
        size = int.from_bytes(buffer[2 : 2 + width], "big")
        if size >> 63:
            raise Violation(PROTOCOL_ERROR, "the length has its highest bit set")
        self._check_size(first, size)
        return first, size, 2 + width

    def _check(self, first: int, second: int, size: int) -> None:
        opcode = first & 0x0F
        if not second & 0x80:
            raise Violation(PROTOCOL_ERROR, "client frames must be masked")
        if first & 0x30 or (first & 0x40 and not self._deflate):
            raise Violation(PROTOCOL_ERROR, "a reserved bit is set")
        if opcode >= CLOSE:
            if opcode > PONG:
                raise Violation(PROTOCOL_ERROR, "unknown opcode")
            if size > 125 or not first & 0x80 or first & 0x40:
                raise Violation(PROTOCOL_ERROR, "control frames are short, whole and plain")
        elif opcode > BINARY:
            raise Violation(PROTOCOL_ERROR, "unknown opcode")
        elif opcode == _CONTINUATION:
            if not self._opcode or first & 0x40:
                raise Violation(PROTOCOL_ERROR, "a continuation of nothing")
        elif self._opcode:
            raise Violation(PROTOCOL_ERROR, "a new message inside a fragmented one")

    def _check_size(self, first: int, size: int) -> None:
        """Check the size before the payload arrives; refuse a compressed one that cannot fit."""
        compressed = self._compressed if not first & 0x0F else bool(first & 0x40)
        room = self._limit - len(self._message)
        if size > (self._limit + (self._limit >> 8) + 64 if compressed else room):
            raise Violation(TOO_BIG, f"messages may have {self._limit} bytes")

    def _frame(self, first: int, payload: bytes) -> Received | None:
        opcode = first & 0x0F
        if opcode == CLOSE:
            return Received(CLOSE, _checked_close(payload))
        if opcode >= CLOSE:
            return Received(opcode, payload)
        if opcode:
            self._begin(opcode, compressed=bool(first & 0x40))
        final = bool(first & 0x80)
        self._check_size(first, len(payload))
        plain = self._inflated(payload, final=final) if self._compressed else payload
        self.inflated += len(plain)
        if not plain and not final:
            self._empty += 1
            if self._empty > _EMPTY_FRAGMENTS:
                raise Violation(POLICY, "too many empty fragments")
        self._add(plain, final=final)
        return self._whole() if final else None

    def _begin(self, opcode: int, *, compressed: bool) -> None:
        self._opcode = opcode
        self._compressed = compressed
        self._empty = 0
        if compressed:
            self._inflater = zlib.decompressobj(-15)
        if opcode == TEXT:
            self._decoder = codecs.getincrementaldecoder("utf-8")()

    def _add(self, data: bytes, *, final: bool) -> None:
        """Add one more piece; text that stops being UTF-8 in the middle is refused at once."""
        if self._decoder is not None:
            try:
                self._decoder.decode(data, final)
            except UnicodeDecodeError:
                raise Violation(INVALID_TEXT, "text must be UTF-8") from None
        self._message += data

    def _inflated(self, data: bytes, *, final: bool) -> bytes:
        """Decompress a piece, but never to more than the limit allows."""
        assert self._inflater is not None
        room = self._limit - len(self._message)
        try:
            plain = self._inflater.decompress(data + _TAIL if final else data, room + 1)
        except zlib.error:
            raise Violation(INVALID_TEXT, "the compressed data is broken") from None
        if len(plain) > room:
            raise Violation(TOO_BIG, f"messages may have {self._limit} bytes")
        if len(self._inflater.unused_data) > _AFTER_END:  # zlib would keep it all
            raise Violation(INVALID_TEXT, "the compressed data goes on after its end")
        return plain

    def _whole(self) -> Received:
        received = Received(self._opcode, bytes(self._message))
        self._opcode = 0
        self._message = bytearray()
        self._inflater = self._decoder = None
        return received


def _unmask(payload: bytearray, mask: bytes) -> bytes:
    """Unmask a payload (RFC 6455 section 5.3) as one operation on one large number."""
    size = len(payload)
    if not size:
        return b""
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


def _checked_close(payload: bytes) -> bytes:
    """Return a close frame's payload once it is checked.

    Raises:
        Violation: the payload is not valid (RFC 6455 sections 5.5.1 and 7.4).
    """
    if not payload:
        return payload
    code = int.from_bytes(payload[:2], "big")
    allowed = 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in {1004, 1005, 1006})
    if len(payload) == 1 or not allowed:
        raise Violation(PROTOCOL_ERROR, "that is no close code")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise Violation(INVALID_TEXT, "the reason must be UTF-8") from None
    return payload
