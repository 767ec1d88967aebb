"""Bytes of a WebSocket frame, an event, a chunk: each framing made once for all its viewers. Pure.

WebSocket: RFC 6455 section 5.2, compression RFC 7692. Server-Sent Events: the WHATWG HTML standard,
section 9.2. Chunks: RFC 9112 section 7.1. Deflate and gzip: RFC 1951 and RFC 1952.

A message is compressed once for everybody: with a window that live viewers share (`Window`), or
self-contained, so that it is valid for any receiver, whatever it has received until then.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import ClassVar, Final

from mypy_extensions import mypyc_attr

from streaming_api.wire.messages import Message
from streaming_api.wire.window import Window

COMPRESS_FROM: Final = 512
"""Bytes below which a message is not worth compressing."""

_LEVEL: Final = 6
_SIZE_16: Final = struct.Struct(">BBH").pack
_SYNC: Final = b"\x00\x00\xff\xff"

TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA


def frame(payload: bytes, opcode: int = TEXT, *, compressed: bool = False) -> bytes:
    """Build one final, unmasked WebSocket frame."""
    first = 0x80 | (0x40 if compressed else 0) | opcode
    size = len(payload)
    if size < 126:
        return b"%c%c%b" % (first, size, payload)
    if size < 65536:
        return _SIZE_16(first, 0x7E, size) + payload
    return b"%c\x7f%b%b" % (first, size.to_bytes(8, "big"), payload)


def close_frame(code: int, reason: str = "") -> bytes:
    """Build a close frame; the reason is cut to the 123 bytes that RFC 6455 section 5.5 allows."""
    text = reason.encode()[:123].decode(errors="ignore").encode()
    return frame(code.to_bytes(2, "big") + text, CLOSE)


def deflate(payload: bytes, bits: int = 15) -> bytes:
    """Compress to self-contained deflate blocks that end on a byte boundary; none is final."""
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -bits)
    return compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)


def stored(payload: bytes) -> bytes:
    """Return the payload as stored deflate blocks: valid in a deflate stream, not compressed."""
    blocks = []
    for start in range(0, len(payload), 65535):
        block = payload[start : start + 65535]
        size = len(block)
        blocks.append(
            b"\x00%b%b%b"
            % (size.to_bytes(2, "little"), (size ^ 0xFFFF).to_bytes(2, "little"), block)
        )
    return b"".join(blocks)


def event(message: Message) -> bytes:
    """Build one Server-Sent Event."""
    return b"%b%d\ndata: %b\n\n" % (message.event_head, message.cursor, message.payload)


def chunk(data: bytes) -> bytes:
    """Build one HTTP/1.1 chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@mypyc_attr(allow_interpreted_subclasses=True)
class Framing:
    """How messages become bytes on one kind of connection.

    Two connections with the same framing share every byte: framings are compared by identity, and
    the few that exist are made once, below.
    """

    __slots__ = ("name",)

    has_window: ClassVar = False
    """Whether live viewers share a window: `windowed`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<Framing {self.name}>"

    def message(self, message: Message) -> bytes:
        """Return the bytes of one message."""
        raise NotImplementedError

    def notice(self, payload: bytes, message_type: str) -> bytes:
        """Return the bytes of a message that belongs to no stream."""
        raise NotImplementedError

    def batch(self, messages: Iterable[Message]) -> bytes:
        """Return the bytes of several messages, for one write."""
        return b"".join(map(self.message, messages))

    def windowed(self, messages: Iterable[Message], window: Window) -> bytes:
        """Do the same as `batch` for clients who share a window and were sent all that is in it."""
        raise NotImplementedError

    def plain(self, messages: Iterable[Message]) -> bytes:
        """Return these messages before their compression."""
        raise NotImplementedError


class _WebSocket(Framing):
    __slots__ = ()

    def message(self, message: Message) -> bytes:
        return frame(message.payload)

    def notice(self, payload: bytes, message_type: str) -> bytes:  # noqa: ARG002 (a frame says it inside)
        return frame(payload)


class _DeflatedWebSocket(_WebSocket):
    __slots__ = ("_bits",)

    def __init__(self, bits: int) -> None:
        super().__init__(f"websocket-deflate-{bits}")
        self._bits = bits

    def message(self, message: Message) -> bytes:
        payload = message.payload
        if len(payload) < COMPRESS_FROM:
            return frame(payload)
        return frame(deflate(payload, self._bits).removesuffix(_SYNC), compressed=True)


class _WindowedWebSocket(_DeflatedWebSocket):
    """Notices and replayed messages refer to nothing; notices are not compressed (RSV1 unset).

    What is not compressed does not enter a client's window (RFC 7692 section 7.2.3.2).
    """

    __slots__ = ()

    has_window: ClassVar = True

    def __init__(self) -> None:
        super().__init__(15)
        self.name = "websocket-windowed"

    def plain(self, messages: Iterable[Message]) -> bytes:  # noqa: ARG002 (nobody sums it up)
        return b""

    def windowed(self, messages: Iterable[Message], window: Window) -> bytes:
        return b"".join(
            [
                frame(window.deflate(message.payload).removesuffix(_SYNC), compressed=True)
                for message in messages
            ]
        )


class _Events(Framing):
    """Server-Sent Events without chunks or compression: the body of an HTTP/1.0 answer."""

    __slots__ = ()

    def message(self, message: Message) -> bytes:
        return event(message)

    def notice(self, payload: bytes, message_type: str) -> bytes:
        return b"event: %b\ndata: %b\n\n" % (message_type.encode(), payload)


class _ChunkedEvents(_Events):
    __slots__ = ()

    def message(self, message: Message) -> bytes:
        return chunk(event(message))

    def notice(self, payload: bytes, message_type: str) -> bytes:
        return chunk(super().notice(payload, message_type))


class _GzipEvents(_Events):
    """Server-Sent Events in one gzip stream per connection, made of blocks that all share.

    A connection's stream is `GZIP_HEADER`, blocks, `gzip_end` with its own checksum.
    """

    __slots__ = ()

    has_window: ClassVar = True

    def windowed(self, messages: Iterable[Message], window: Window) -> bytes:
        plain = self.plain(messages)
        window.checksum = window.checksum.add(plain)
        return chunk(window.deflate(plain))

    def message(self, message: Message) -> bytes:
        return self.batch((message,))

    def batch(self, messages: Iterable[Message]) -> bytes:
        """Compress all of them as one, which is cheaper and smaller than one by one."""
        plain = self.plain(messages)
        return chunk(stored(plain) if len(plain) < COMPRESS_FROM else deflate(plain))

    def notice(self, payload: bytes, message_type: str) -> bytes:
        return chunk(stored(super().notice(payload, message_type)))

    def plain(self, messages: Iterable[Message]) -> bytes:
        return b"".join(map(event, messages))


GZIP_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
"""The gzip header (RFC 1952 section 2.3): deflate, no name, no time, unknown system."""


def gzip_end(checksum: int, size: int) -> bytes:
    """Return an empty final block, then the CRC-32 and length of everything that was compressed."""
    return b"\x03\x00" + checksum.to_bytes(4, "little") + (size % 2**32).to_bytes(4, "little")


_NAME: Final = len(b"event: chat_completion\n")


class _OpenAI(Framing):
    """OpenAI's own wire: the upstream's chunk alone; notices are comments, the end is not shown.

    An event has an id as in the other framings; SDKs ignore it.
    """

    __slots__ = ()

    def message(self, message: Message) -> bytes:
        if message.final:
            return b""
        event_id = message.event_head[_NAME:]
        return b"%b%d\ndata: %b\n\n" % (event_id, message.number, message.data)

    def notice(self, payload: bytes, message_type: str) -> bytes:  # noqa: ARG002 (OpenAI has none)
        return b": %b\n" % payload


class _ChunkedOpenAI(_OpenAI):
    __slots__ = ()

    def message(self, message: Message) -> bytes:
        return b"" if message.final else chunk(super().message(message))

    def notice(self, payload: bytes, message_type: str) -> bytes:
        return chunk(super().notice(payload, message_type))


WEBSOCKET: Final[Framing] = _WebSocket("websocket")
DEFLATED_WEBSOCKET: Final[dict[int, Framing]] = {n: _DeflatedWebSocket(n) for n in range(9, 16)}
WINDOWED_WEBSOCKET: Final[Framing] = _WindowedWebSocket()
EVENTS: Final[Framing] = _Events("events")
CHUNKED_EVENTS: Final[Framing] = _ChunkedEvents("chunked-events")
GZIP_EVENTS: Final[Framing] = _GzipEvents("gzip-events")
OPENAI: Final[Framing] = _OpenAI("openai")
CHUNKED_OPENAI: Final[Framing] = _ChunkedOpenAI("chunked-openai")
