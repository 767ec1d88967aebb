"""Framings of the faces: the events of another wire as bytes. Pure."""

from __future__ import annotations

from typing import Final

import orjson

from streaming_api.wire.framing import Framing, chunk, frame
from streaming_api.wire.messages import Message

_TYPE: Final = len(b'{"type":"')


class _Events(Framing):
    """Events as the body of a response over HTTP/1.0; a notice is a comment."""

    __slots__ = ()

    def notice(self, payload: bytes, message_type: str) -> bytes:  # noqa: ARG002 (a comment has none)
        return b": %b\n" % payload


class _Responses(_Events):
    __slots__ = ()

    def message(self, message: Message) -> bytes:
        data = message.data
        return b"event: %b\ndata: %b\n\n" % (data[_TYPE : data.index(b'"', _TYPE)], data)


class _ChunkedResponses(_Responses):
    __slots__ = ()

    def message(self, message: Message) -> bytes:
        return chunk(super().message(message))

    def notice(self, payload: bytes, message_type: str) -> bytes:
        return chunk(super().notice(payload, message_type))


class _UiMessages(_Events):
    __slots__ = ()

    def message(self, message: Message) -> bytes:
        if message.final:
            return b"data: %b\n\ndata: [DONE]\n\n" % message.data
        return b"data: %b\n\n" % message.data


class _ChunkedUiMessages(_UiMessages):
    __slots__ = ()

    def message(self, message: Message) -> bytes:
        return chunk(super().message(message))

    def notice(self, payload: bytes, message_type: str) -> bytes:
        return chunk(super().notice(payload, message_type))


class _Lines(Framing):
    __slots__ = ()

    def message(self, message: Message) -> bytes:
        return message.data + b"\n"


RESPONSES: Final[Framing] = _Responses("responses")
CHUNKED_RESPONSES: Final[Framing] = _ChunkedResponses("chunked-responses")
UI_MESSAGES: Final[Framing] = _UiMessages("ui-messages")
CHUNKED_UI_MESSAGES: Final[Framing] = _ChunkedUiMessages("chunked-ui-messages")
LINES: Final[Framing] = _Lines("lines")
"""The data of each message on its own line, as a derived stream reads it."""


class ResponseFrames(Framing):
    """Events of the Responses API as WebSocket frames.

    Args:
        lane: the ``stream_id`` that the client gave the response, repeated in every event.
    """

    __slots__ = ("_lane",)

    def __init__(self, lane: str | None) -> None:
        super().__init__("response-frames")
        self._lane = b"" if lane is None else b'{"stream_id":%b,' % orjson.dumps(lane)

    def event(self, data: bytes) -> bytes:
        """Return one event with the name of its lane."""
        return self._lane + data[1:] if self._lane else data

    def message(self, message: Message) -> bytes:
        """Return the frame of one event."""
        return frame(self.event(message.data))

    def notice(self, payload: bytes, message_type: str) -> bytes:  # noqa: ARG002 (a frame says it inside)
        """Return the frame of an event for this client alone."""
        return frame(payload)


RESPONSE_FRAMES: Final[Framing] = ResponseFrames(None)
