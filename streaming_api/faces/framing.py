"""Framings of the faces: the events of another wire as bytes. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import orjson

from streaming_api.wire.framing import Framing, chunk, frame
from streaming_api.wire.messages import Message

_TYPE: Final = len(b'{"type":"')


class _Bodies(Framing):
    """The body of a response over HTTP; a notice is a comment."""

    __slots__ = ("_body", "_event")

    def __init__(
        self, name: str, event: Callable[[Message], bytes], body: Callable[[bytes], bytes]
    ) -> None:
        super().__init__(name)
        self._event = event
        self._body = body

    def message(self, message: Message) -> bytes:
        return self._body(self._event(message))

    def notice(self, payload: bytes, message_type: str) -> bytes:  # noqa: ARG002 (a comment has none)
        return self._body(b": %b\n" % payload)


class _Lines(Framing):
    __slots__ = ()

    def message(self, message: Message) -> bytes:
        return message.data + b"\n"


def _response_event(message: Message) -> bytes:
    data = message.data
    return b"event: %b\ndata: %b\n\n" % (data[_TYPE : data.index(b'"', _TYPE)], data)


def _ui_event(message: Message) -> bytes:
    if message.final:
        return b"data: %b\n\ndata: [DONE]\n\n" % message.data
    return b"data: %b\n\n" % message.data


def _plain(data: bytes) -> bytes:
    return data


RESPONSES: Final[Framing] = _Bodies("responses", _response_event, _plain)
CHUNKED_RESPONSES: Final[Framing] = _Bodies("chunked-responses", _response_event, chunk)
UI_MESSAGES: Final[Framing] = _Bodies("ui-messages", _ui_event, _plain)
CHUNKED_UI_MESSAGES: Final[Framing] = _Bodies("chunked-ui-messages", _ui_event, chunk)
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
