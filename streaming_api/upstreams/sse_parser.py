"""Bytes of a Server-Sent Events stream in, events out; knows nothing of sockets, JSON or chat.

The rules are those of the HTML standard, section 9.2.6 "Interpreting an event stream":
lines end at CR, LF or CRLF and at nothing else (U+2028, U+0085 and VT are text); one space after
the colon is dropped; an event ends at an empty line; a byte order mark at the very start is
dropped. One that has not ended at the end of the stream is discarded there; here `finish` hands it
out, for a caller who knows that the stream was not cut.

Two kinds of lines that the standard has a reader ignore are events by themselves, because servers
write them: ``error: {...}`` (llama.cpp), an event of that name; and an object without any field.

Two paths give the same result. The fast one takes a read that holds whole events with LF ends,
which is nearly every read of a live answer, and cuts it with `bytes.split`. The other one takes
everything else, line by line. Both are linear in the bytes fed, however these are cut.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
CR: Final = 13  # a number: searching for it costs a sixth of searching for b"\r"

Event = tuple[bytes, bytes]
"""(`event` field, empty if there was none; `data` lines joined with LF). A plain tuple, because
one is made for every token."""


class EventTooLargeError(Exception):
    """One event, or one line, is larger than the parser may hold.

    Attributes:
        limit: the bound in bytes.
        events: the events that the same bytes completed before it.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit
        self.events: list[Event] = []

    def __str__(self) -> str:
        return f"an event is larger than {self.limit} bytes"


class EventParser:
    """Incremental and bounded: holds at most one unfinished event of `max_event_bytes`."""

    __slots__ = (
        "_after_cr",
        "_at_boundary",
        "_at_start",
        "_data",
        "_max_event_bytes",
        "_size",
        "_type",
        "_unfinished",
    )

    def __init__(self, max_event_bytes: int = 16 * 2**20) -> None:
        self._max_event_bytes = max_event_bytes
        self._unfinished = bytearray()  # the line that has not ended yet
        self._data: list[bytes] = []  # data lines of the event that has not ended yet
        self._size = 0  # bytes in _data, line ends included
        self._type = b""
        self._at_start = True  # a byte order mark may still come
        self._after_cr = False  # a LF that comes next belongs to the line already ended
        self._at_boundary = False  # nothing is held, so the fast path may be taken

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that `data` completes, in order.

        Raises:
            EventTooLargeError: what is held would pass the bound. The parser is useless after it.
        """
        if (
            self._at_boundary
            and CR not in data
            and data.endswith(b"\n\n")
            and len(data) <= self._max_event_bytes
        ):
            if data.startswith(b"data: ") and data.find(b"\n") == len(data) - 2:
                return [(b"", data[6:-2])]  # one event, one line: most reads
            return self._whole_events(data.split(b"\n"))
        events: list[Event] = []
        try:
            if data:
                self._take_lines(data, events)
        except EventTooLargeError as exc:
            exc.events = events
            raise
        return events

    def finish(self) -> list[Event]:
        """Return the unfinished event, if there is one, as if an empty line had ended it."""
        events: list[Event] = []
        with suppress(EventTooLargeError):  # what was held is within the bound, and the sum is not
            if self._unfinished:
                self._end_line(self._first_line(), events)
            self._end_event(events)
        return events

    def _whole_events(self, lines: list[bytes]) -> list[Event]:
        """Return the events of lines that nothing precedes and an empty line ends."""
        events: list[Event] = []
        if any(lines[1::2]):
            for line in lines:
                self._end_line(line, events)
            return events
        for line in lines[:-1:2]:  # every event is a single line
            if line.startswith(b"data: "):
                events.append((b"", line[6:]))
            elif line:
                self._end_line(line, events)
                self._end_event(events)
        return events

    def _take_lines(self, data: bytes, events: list[Event]) -> None:
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
        self._after_cr = data.endswith(b"\r")
        if CR in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = data.split(b"\n")
        remainder = lines.pop()
        if lines:
            self._unfinished += lines[0]
            lines[0] = self._first_line()
            for line in lines:
                self._end_line(line, events)
        self._unfinished += remainder
        self._check_bound(len(self._unfinished))
        self._at_boundary = not (
            self._unfinished or self._data or self._type or self._after_cr or self._at_start
        )

    def _first_line(self) -> bytes:
        line = bytes(self._unfinished)
        self._unfinished.clear()
        if self._at_start:
            self._at_start = False
            return line.removeprefix(BYTE_ORDER_MARK)
        return line

    def _end_line(self, line: bytes, events: list[Event]) -> None:
        if not line:
            self._end_event(events)
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.removeprefix(b" ")
            self._check_bound(len(value) + 1)
            self._size += len(value) + 1
            self._data.append(value)
        elif name == b"event":
            self._check_bound(len(value))
            self._type = value.removeprefix(b" ")
        elif name == b"error":
            self._end_event(events)
            events.append((name, value.removeprefix(b" ")))
        elif line.startswith(b'{"'):
            self._end_event(events)
            events.append((b"", line))

    def _end_event(self, events: list[Event]) -> None:
        if self._data:
            events.append((self._type, b"\n".join(self._data)))
            self._data = []
            self._size = 0
        self._type = b""

    def _check_bound(self, more: int) -> None:
        if self._size + more > self._max_event_bytes:
            raise EventTooLargeError(self._max_event_bytes)
