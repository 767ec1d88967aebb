"""Server messages: their fields, their one encoding to JSON, their cursors. Pure."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from typing import Final

import orjson

CHAT: Final = "chat_completion"
METRICS: Final = "metrics_update"
ALERT: Final = "alert"
STATUS: Final = "status_update"

MESSAGE_TYPES: Final = (CHAT, METRICS, ALERT, STATUS)


class Message:
    """One message of a stream, encoded once.

    Attributes:
        number: its ``sequence_id``.
        stream: the name of the stream that it is on.
        payload: the whole message as JSON, UTF-8, without CR or LF.
        cursor: the number in its cursor: the client's position after it.
        event_head: the text that Server-Sent Events put before that number.
        appended: monotonic seconds at which it was created.
        final: whether it is the last of its stream.
    """

    __slots__ = ("appended", "cursor", "event_head", "final", "number", "payload", "stream")

    def __init__(
        self,
        number: int,
        stream: str,
        payload: bytes,
        cursor: int,
        event_head: bytes,
        appended: float,
    ) -> None:
        self.number = number
        self.stream = stream
        self.payload = payload
        self.cursor = cursor
        self.event_head = event_head
        self.appended = appended
        self.final = False

    @property
    def data(self) -> bytes:
        """The JSON of ``data`` alone: what OpenAI's own wire carries."""
        payload = self.payload
        return payload[payload.index(_DATA) + len(_DATA) : -1]


class BareMessage(Message):
    """A message without our envelope: its payload is its data."""

    __slots__ = ()

    @property
    def data(self) -> bytes:
        """The payload."""
        return self.payload


class Clock:
    """RFC 3339 timestamps, UTC, milliseconds: formatted at most once a millisecond."""

    __slots__ = ("_millisecond", "_second", "_stamp", "_text")

    def __init__(self) -> None:
        self._millisecond = self._second = -1
        self._text = self._stamp = b""

    def __call__(self) -> bytes:
        """Return the current time."""
        millisecond = time.time_ns() // 1_000_000
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            second, rest = divmod(millisecond, 1000)
            if second != self._second:
                self._second = second
                self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
            self._stamp = b"%b.%03dZ" % (self._text, rest)
        return self._stamp


timestamp: Final = Clock()


_DATA: Final = b'"data":'
"""Comes last in a payload, and nowhere before: inside a JSON string its quotes are escaped."""
_PAYLOAD: Final = b'%b%d","sequence_id":%d,"timestamp":"%b","data":%b}'


class Encoder:
    """Writes the messages of one stream: the envelope prepared once, the data spliced in as bytes.

    Args:
        message_type: one of ``MESSAGE_TYPES``.
        stream: the stream's name, its ``stream_id``.
        epoch: what stands before the colon in a cursor; of an answer, its request_id.
        request_id: that of a chat.
    """

    __slots__ = ("_event_head", "_head", "message_type", "request_id", "stream")

    def __init__(
        self, message_type: str, stream: str, epoch: str, request_id: str | None = None
    ) -> None:
        self.message_type = message_type
        self.stream = stream
        self.request_id = request_id
        fields = {"message_type": message_type, "stream_id": stream}
        if request_id is not None:
            fields["request_id"] = request_id
        self._head = orjson.dumps(fields)[:-1] + b',"cursor":"%b:' % epoch.encode()
        self._event_head = b"event: %b\nid: %b:" % (message_type.encode(), epoch.encode())

    def encode(
        self, number: int, data: bytes, appended: float, cursor: int | None = None
    ) -> Message:
        """Encode the message ``number`` of the stream.

        Args:
            number: its ``sequence_id``.
            data: a JSON object, UTF-8, without CR or LF (a line of Server-Sent Events carries it).
            appended: monotonic seconds.
            cursor: the client's position after it, if that is not ``number``.
        """
        if cursor is None:
            cursor = number
        payload = _PAYLOAD % (self._head, cursor, number, timestamp(), data)
        return Message(number, self.stream, payload, cursor, self._event_head, appended)

    def encode_all(self, number: int, data: Iterable[bytes], appended: float) -> list[Message]:
        """Encode messages from ``number`` on: the loop that every token goes through."""
        stamp = timestamp()
        stream, head, event_head = self.stream, self._head, self._event_head
        messages = []
        for item in data:
            payload = _PAYLOAD % (head, number, number, stamp, item)
            messages.append(Message(number, stream, payload, number, event_head, appended))
            number += 1
        return messages

    def again(self, number: int, payload: bytes, appended: float) -> Message:
        """Restore a message that this encoder wrote before from what was kept of it."""
        return Message(number, self.stream, payload, number, self._event_head, appended)


class BareEncoder(Encoder):
    """Writes the messages of a stream that is only ever shown without our envelope: their data."""

    __slots__ = ()

    def encode(
        self, number: int, data: bytes, appended: float, cursor: int | None = None
    ) -> Message:
        """Return the message ``number`` of the stream."""
        at = number if cursor is None else cursor
        return BareMessage(number, self.stream, data, at, self._event_head, appended)

    def encode_all(self, number: int, data: Iterable[bytes], appended: float) -> list[Message]:
        """Return messages from ``number`` on."""
        stream, event_head = self.stream, self._event_head
        messages: list[Message] = []
        for item in data:
            messages.append(BareMessage(number, stream, item, number, event_head, appended))
            number += 1
        return messages

    def again(self, number: int, payload: bytes, appended: float) -> Message:
        """Restore a message from what was kept of it."""
        return BareMessage(number, self.stream, payload, number, self._event_head, appended)


def notice(
    message_type: str,
    data: Mapping[str, object],
    *,
    stream: str | None = None,
    request_id: object = None,
) -> bytes:
    """Encode an error or a notice for one client: on no stream, without ``sequence_id``."""
    fields: dict[str, object] = {
        "message_type": message_type,
        "timestamp": timestamp().decode(),
        "data": data,
    }
    if stream is not None:
        fields["stream_id"] = stream
    if request_id is not None:
        fields["request_id"] = request_id
    return orjson.dumps(fields)


_CURSOR: Final = re.compile(r"([A-Za-z0-9_.-]{1,128}):([0-9]{1,18})", re.ASCII)


def parse_cursor(text: str) -> tuple[str, int] | None:
    """Return the epoch (or request_id) and the number in a cursor; None if it is not one of ours.

    The text is hostile: anything may stand in ``Last-Event-ID``.
    """
    found = _CURSOR.fullmatch(text)
    return None if found is None else (found[1], int(found[2]))
