"""Server-Sent Events: topics and answers as event streams. WHATWG HTML standard, section 9.2.

The response begins with aiohttp-sse's headers; its transport belongs to an `EventStream`, and
deliveries go straight to it from the streams.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Final

from aiohttp import hdrs, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import HttpVersion11
from aiohttp_sse import EventSourceResponse

from streaming_api.answers.elsewhere import when_arrived
from streaming_api.answers.idempotency import parse_key, recognisable
from streaming_api.connections.connection import Connection
from streaming_api.connections.endings import CloseReason
from streaming_api.errors import BadRequest, NotFound
from streaming_api.ops.context import CONTEXT, client_of, route_of
from streaming_api.web.body import read_json
from streaming_api.web.guard import scope
from streaming_api.web.headers import head_lines
from streaming_api.web.one_request import MOST_BEHIND
from streaming_api.web.takeover import TAKEN, hand_back, reserve_slot, take_over
from streaming_api.wire import framing
from streaming_api.wire.checksum import Checksum
from streaming_api.wire.commands import chat_request, check_request_id

if TYPE_CHECKING:
    from streaming_api.answers.watched_answer import WatchedAnswer
    from streaming_api.connections.admission import Slot
    from streaming_api.engine.sink import Watcher
    from streaming_api.ops.context import Context

_LAST_CHUNK: Final = b"0\r\n\r\n"
_REFUSED: Final = re.compile(r"q=0(\.0*)?")
_COMMENT: Final = b": keep-alive\n"
_VARY: Final = f"{hdrs.VARY}: {hdrs.ORIGIN}\r\n"


class EventStream(Connection):
    """One client on an event stream."""

    kind: ClassVar[str] = "sse"
    comes_back: ClassVar[bool] = True

    __slots__ = ("_behind", "_checksum", "_chunked", "_complete", "_keep_alive")

    def __init__(self, request: web.Request, kind: framing.Framing, *, chunked: bool) -> None:
        context = request.app[CONTEXT]
        super().__init__(context.manager, client_of(request), kind, route_of(request))
        self._chunked = chunked
        self._keep_alive = chunked and request.keep_alive
        self._behind = b""  # the client's next request, if sent before the end of this one
        self._complete = False  # the response is, but may still have unsent bytes
        self._checksum = Checksum()  # of what a gzip stream holds so far

    def data_received(self, data: bytes) -> None:
        """Keep the bytes as the client's next request: an event stream takes no input."""
        self._behind += data
        if len(self._behind) > MOST_BEHIND:
            self.transport.pause_reading()

    @property
    def keep_alive(self) -> bool:
        """Whether the client may send its next request on this connection."""
        return self._keep_alive

    def comment(self, text: bytes) -> None:
        """Send bytes that are not an event: a heartbeat."""
        if self.framing is framing.GZIP_EVENTS:
            self.add_plain(text)
            text = framing.stored(text)
        self.write(self.in_body(text))

    def in_body(self, text: bytes) -> bytes:
        """Return bytes as they stand in the response's body."""
        return framing.chunk(text) if self._chunked else text

    def send(self, payload: bytes, message_type: str) -> None:
        """Send a notice or an error to this client alone."""
        super().send(payload, message_type)
        if self.framing is framing.GZIP_EVENTS:
            self.add_plain(framing.EVENTS.notice(payload, message_type))

    def add_plain(self, plain: bytes) -> None:
        """Add to the checksum of the gzip stream, after what its viewers have been written."""
        super().add_plain(plain)
        for viewer in self.viewers:
            viewer.pass_checksum()
        self._checksum = self._checksum.add(plain)

    def add_checksum(self, written: Checksum) -> None:
        """Add to the checksum what a live viewer has been written."""
        self._checksum = self._checksum.join(written)

    def heartbeat(self, now: float) -> float:
        """Send a comment after a silence, so that nobody in between takes the stream for dead."""
        interval = self.manager.config.sse_keep_alive_interval
        if self.ending is not None:  # its last bytes are on their way; the stall sweep watches them
            return now + interval
        due = self.last_write + interval
        if now < due:
            return due
        self.comment(_COMMENT)
        return now + interval

    def finished(self, viewer: Watcher) -> None:  # noqa: ARG002 (there is one)
        """Note that the answer has ended, and end the response."""
        self.end(CloseReason.FINISHED)

    def close(self, ending: CloseReason) -> None:
        """End the response; an EventSource reconnects by itself."""
        self.end(ending)

    def eof_received(self) -> None:
        """Note that the client sends nothing more: it has left, or must be taken to have left.

        A client that only listens looks like one that is gone, and the upstream must not
        work for nobody. A client that listens at least learns that the answer is not complete.
        """
        self.close(CloseReason.CLIENT)

    def end(self, ending: CloseReason) -> None:
        """Say that the response is complete, and close once it is sent."""
        if self.ending is not None:
            return
        self.leave_all()
        self.ending = ending
        last = _LAST_CHUNK if self._chunked else b""
        if self.framing is framing.GZIP_EVENTS:
            last = framing.chunk(framing.gzip_end(*self._checksum)) + last
        if last or self.opening:
            self.write(last)
        self._leave(ending)

    def _leave(self, ending: CloseReason) -> None:
        """Once the response is sent, let the next request come, or close the connection."""
        if ending != CloseReason.FINISHED or not self._keep_alive:
            self.transport.close()
            return
        self._complete = True
        if self.unsent:
            self.transport.set_write_buffer_limits(0)  # resume_writing, as soon as all is sent
        else:
            self._hand_back()

    def resume_writing(self) -> None:
        """Note that the kernel has taken all unsent bytes."""
        if self._complete:
            self._hand_back()
        else:
            super().resume_writing()

    def _hand_back(self) -> None:
        if not hand_back(self, self._behind):
            self.transport.close()


class _Opening(EventSourceResponse):
    """The head of an event stream."""

    def __init__(self, *, gzip: bool, keep_alive: bool) -> None:
        # A time-out would set TCP_USER_TIMEOUT, which the listening socket has passed on already.
        super().__init__(send_timeout=None, allow_all_methods=True)
        self.headers[hdrs.CONNECTION] = "keep-alive" if keep_alive else "close"
        self.headers[hdrs.VARY] = hdrs.ACCEPT_ENCODING
        if gzip:
            self.headers[hdrs.CONTENT_ENCODING] = "gzip"


def _head_alone(request: web.Request) -> web.StreamResponse:
    """Return the reply to a HEAD: the head of an event stream, which is not opened for it."""
    gzip = _negotiate(request) is framing.GZIP_EVENTS
    return _Opening(gzip=gzip, keep_alive=request.keep_alive)


def open_events(request: web.Request, slot: Slot) -> EventStream:
    """Answer a request with an event stream, and take its connection over.

    Its head goes along with the first that is written there, or else with `send_opening`.
    """
    context = request.app[CONTEXT]
    kind = _negotiate(request)
    gzip = kind is framing.GZIP_EVENTS
    chunked = kind is not framing.EVENTS
    connection = EventStream(request, kind, chunked=chunked)
    opening = b"retry: %d\n" % context.config.sse_retry_timeout  # part of the first event
    if gzip:
        connection.add_plain(opening)
        opening = framing.GZIP_HEADER + framing.stored(opening)
    keep_alive = connection.keep_alive and not context.manager.leaving
    head = _head(head_lines(request), gzip=gzip, chunked=chunked, keep_alive=keep_alive)
    date = f"Date: {rfc822_formatted_time()}\r\n\r\n".encode()
    connection.opening = head + date + connection.in_body(opening)
    take_over(request, connection, slot)
    return connection


@lru_cache(64)
def _head(common: str, *, gzip: bool, chunked: bool, keep_alive: bool) -> bytes:
    """Return aiohttp-sse's headers, and those of every response, as the lines of one head."""
    headers = _Opening(gzip=gzip, keep_alive=keep_alive).headers
    if _VARY in common:
        common = common.replace(_VARY, "")
        headers[hdrs.VARY] = f"{headers[hdrs.VARY]}, {hdrs.ORIGIN}"
    if chunked:
        headers[hdrs.TRANSFER_ENCODING] = "chunked"
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.{'1' if chunked else '0'} 200 OK\r\n{lines}{common}".encode()


def _negotiate(request: web.Request) -> framing.Framing:
    """Choose a framing by RFC 9110 section 12.5.3, as far as gzip goes."""
    if request.version < HttpVersion11:
        return framing.EVENTS
    config = request.app[CONTEXT].config
    if config.compression_enabled and config.sse_compression:
        for coding in request.headers.get(hdrs.ACCEPT_ENCODING, "").lower().split(","):
            name, _, weight = coding.partition(";")
            if name.strip() == "gzip" and not _REFUSED.fullmatch(weight.strip()):
                return framing.GZIP_EVENTS
    return framing.CHUNKED_EVENTS


def require_sse(context: Context) -> None:
    """Check that event streams are served.

    Raises:
        NotFound: they are not served.
    """
    if not context.config.sse_enabled:
        message = "Event streams are switched off here (sse.enabled); use /streaming/websocket."
        raise NotFound(message, "sse_disabled")


# Topics


@scope("watch")
async def topic_events(request: web.Request) -> web.StreamResponse:
    """GET /streaming/sse/metrics, /alerts, /status, /history: one topic."""
    return await _topics(request, (request.path.rpartition("/")[2],))


@scope("watch")
async def topics_events(request: web.Request) -> web.StreamResponse:
    """GET /streaming/sse?topics=metrics,alerts,status: several, with one cursor."""
    asked = request.query.get("topics", ",".join(request.app[CONTEXT].topics.names))
    return await _topics(request, tuple(dict.fromkeys(name.strip() for name in asked.split(","))))


async def _topics(request: web.Request, names: tuple[str, ...]) -> web.StreamResponse:
    topics = request.app[CONTEXT].topics
    for name in names:
        topics.require(name)
    if len({topics.channel_of(name) for name in names}) > 1:
        message = "The history has cursors of its own; ask for it alone."
        raise BadRequest(message, "invalid_value", param="topics")
    cursor = _cursor(request)
    require_sse(request.app[CONTEXT])
    if request.method == hdrs.METH_HEAD:
        return _head_alone(request)
    with reserve_slot(request, "sse") as slot:
        connection = open_events(request, slot)
        topics.watch(connection, names, cursor)
        connection.send_opening()
    return TAKEN


def _cursor(request: web.Request) -> str | None:
    """Return the client's cursor: Last-Event-ID, or ``?cursor=`` for those who cannot set it."""
    return request.headers.get(hdrs.LAST_EVENT_ID) or request.query.get("cursor") or None


# Answers


@scope("chat")
async def start_answer(request: web.Request) -> web.StreamResponse:
    """POST /streaming/sse/chat: start an answer (or attach to it) and stream it."""
    context = request.app[CONTEXT]
    context.answers.require()
    require_sse(context)
    client = client_of(request)
    client.take_command()
    key = idempotency_key(request)
    asked = await read_json(request, lambda f, text: recognisable(chat_request(f, text), key))
    with reserve_slot(request, "sse") as slot:
        answer = await when_arrived(lambda: context.retries.start(key, asked, client))
        return _show(request, slot, answer, 0)


@scope("chat")
async def watch_answer(request: web.Request) -> web.StreamResponse:
    """GET /streaming/sse/chat/{request_id}: watch or resume an answer."""
    context = request.app[CONTEXT]
    context.answers.require()
    require_sse(context)
    owner, request_id = client_of(request).owner, request.match_info["request_id"]
    answer = await when_arrived(lambda: context.answers.find(owner, request_id))
    after, fault = last_seen(request, answer)
    if answer.has_seen_all(after):
        return web.Response(status=204)  # all seen: an EventSource stops here
    if request.method == hdrs.METH_HEAD:
        return _head_alone(request)
    with reserve_slot(request, "sse") as slot:
        return _show(request, slot, answer, after, fault)


def idempotency_key(request: web.Request) -> str | None:
    """Return the key that the client's retries of this request will carry, too."""
    return parse_key(request.headers.getall("Idempotency-Key", []))


def _show(
    request: web.Request, slot: Slot, answer: WatchedAnswer, after: int, fault: str | None = None
) -> web.StreamResponse:
    try:
        connection = open_events(request, slot)
    except BaseException:
        answer.check_watched()  # the client left while its response was being opened
        raise
    answer.watch(connection, after, fault)
    connection.send_opening()
    return TAKEN


def last_seen(request: web.Request, answer: WatchedAnswer) -> tuple[int, str | None]:
    """Return the last ``sequence_id`` that the client has seen, or its cursor's fault."""
    after = request.query.get("after", "0")
    if not after.isascii() or not after.isdigit() or len(after) > 18:
        message = "after must be the last sequence_id seen: a whole number, 0 for from the start."
        raise BadRequest(message, "invalid_value", param="after")
    cursor = _cursor(request)
    return (int(after), None) if cursor is None else answer.locate(cursor)


@scope("chat")
async def cancel_answer(request: web.Request) -> web.Response:
    """DELETE /streaming/chat/{request_id}: cancel the answer; idempotent."""
    context = request.app[CONTEXT]
    context.answers.require()
    request_id = check_request_id(request.match_info["request_id"])
    client = client_of(request)
    answer = await when_arrived(lambda: context.answers.find(client.owner, request_id))
    context.answers.cancel(answer, client)
    await answer.cancelled()
    return web.Response(status=204)
