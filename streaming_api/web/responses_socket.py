"""The Responses API over WebSocket: OpenAI's WebSocket mode.

``response.create`` events come in, response events go out. Responses of one lane (``stream_id``)
follow each other; lanes run side by side. A client that comes back continues with
``?response_id=...&starting_after=...`` in the address, or with a ``response.resume`` event.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Final

import attrs
import orjson
from aiohttp import web

from streaming_api.answers.elsewhere import Elsewhere
from streaming_api.errors import ApiError, BadRequest, TooMany
from streaming_api.faces.fields import boolean, invalid, missing, optional_text, unsupported
from streaming_api.faces.framing import RESPONSE_FRAMES, ResponseFrames
from streaming_api.faces.kept_responses import (
    Prepared,
    Responses,
    ResponseStream,
    Turn,
    starting_after,
)
from streaming_api.ops.context import CONTEXT, client_of, route_of
from streaming_api.upstreams.header_names import chosen
from streaming_api.web.command_handler import CommandHandler
from streaming_api.web.guard import scope
from streaming_api.web.handshake import open_socket
from streaming_api.web.responses import responses_of
from streaming_api.web.takeover import TAKEN
from streaming_api.web.websocket import WebSocket
from streaming_api.wire import json_text
from streaming_api.wire.commands import new_request_id

if TYPE_CHECKING:
    from streaming_api.access.client import Client
    from streaming_api.answers.answers import Answers
    from streaming_api.answers.watched_answer import WatchedAnswer
    from streaming_api.connections.manager import ConnectionManager
    from streaming_api.engine.sink import Watcher
    from streaming_api.wire.commands import ChatRequest
    from streaming_api.wire.deflate import Deflate

_MOST_WAITING: Final = 32
"""Responses that may wait on one connection for others in their lane."""
_MOST_REMEMBERED: Final = 8
"""Turns of one connection that may be continued from, even if they are not stored."""

Fields = dict[str, object]
Lane = str | None


class ResponsesSocket(WebSocket):
    """One client of the WebSocket mode."""

    comes_back: ClassVar[bool] = False

    __slots__ = ("_answers", "_headers", "_lanes", "_responses", "_running", "_turns")

    def __init__(
        self,
        manager: ConnectionManager,
        request: web.Request,
        deflate: Deflate | None,
        answers: Answers,
        responses: Responses,
    ) -> None:
        handler = CommandHandler(request.app[CONTEXT], chat_only=True)
        client, limit = client_of(request), manager.config.body_size_limit  # as over HTTP
        super().__init__(manager, client, route_of(request), deflate, handler, limit)
        self._answers = answers
        self._headers = chosen(request.headers, manager.config.forward_headers)
        self._headers.pop("x-request-id", None)  # each answer of a connection has its own
        self._responses = responses
        self._lanes: dict[Lane, deque[bytes]] = {}  # the busy ones, and what waits there
        self._running: dict[Watcher, tuple[Lane, ResponseStream]] = {}
        self._turns: dict[str, Turn] = {}  # the latest, oldest first

    def run(self, fields: Fields, text: bytes) -> None:
        """Carry out an event.

        Raises:
            ApiError: the event fails; the client is sent this error.
        """
        kind = fields.get("type")
        lane = optional_text(fields, "stream_id")
        if lane is not None and not 0 < len(lane) <= 128:
            raise invalid("stream_id", "a string of 1 to 128 characters")
        if kind == "response.create":
            self._create(lane, fields, text)
        elif kind == "response.resume":
            self._resume(lane, fields)
        elif kind == "response.cancel":
            answer, _ = self._responses.find(self.client, _response_id(fields))
            self._answers.cancel(answer, self.client)
        else:
            raise BadRequest(
                "type must be response.create, response.resume or response.cancel.",
                "unknown_event_type",
                param="type",
            )

    def send_error(self, error: ApiError, fields: Fields) -> None:
        """Report an error about an event; the connection stays open."""
        self.manager.refused(error, self.client.address, self.client.owner)
        event: Fields = {"type": "error", "status": error.status, "error": error.body()}
        lane = fields.get("stream_id")
        if isinstance(lane, str) and len(lane) <= 128:
            event["stream_id"] = lane
        self.send(orjson.dumps(event), "")

    def go_on(self, query: Mapping[str, str]) -> None:
        """Resume the response that the address of a returning client names."""
        self._run({**query, "type": "response.resume"}, b"")

    def _resume(self, lane: Lane, fields: Fields) -> None:
        """Show a response from strictly after the last event that the client has seen.

        Raises:
            ApiError: this fails; the client is sent this error.
        """
        _, response = self._responses.find(self.client, _response_id(fields))
        given = fields.get("starting_after")
        after = starting_after(None if given is None else str(given))
        response.check(after)
        self._lanes.setdefault(lane, deque())
        self._show(lane, response, after)

    # Lanes

    @property
    def unread(self) -> int:
        """Bytes that are not a whole message yet, that wait for their lane, or are prepared."""
        waiting = sum(len(text) for texts in self._lanes.values() for text in texts)
        prepared = sum(turn.size for turn in self._turns.values() if isinstance(turn, Prepared))
        return super().unread + waiting + prepared

    def _create(self, lane: Lane, fields: Fields, text: bytes) -> None:
        """Begin a response, or let it wait for the one before it in its lane.

        Raises:
            ApiError: the request is wrong, or too many wait.
        """
        if fields.get("background") is not None:
            raise unsupported("background")
        if not boolean(fields, "stream", default=True):
            raise invalid("stream", "left out: events are what this connection is for")
        boolean(fields, "generate", default=True)
        if lane not in self._lanes:
            self._lanes[lane] = deque()
            self._begin(lane, json_text.exact(text), new_request_id())
            return
        if sum(map(len, self._lanes.values())) >= _MOST_WAITING:
            message = f"{_MOST_WAITING} responses wait on this connection already."
            raise TooMany(message, "too_many_answers", retry_after=1)
        self.share.check(len(text))
        self._lanes[lane].append(text)
        self.count_memory()

    def _begin(self, lane: Lane, fields: Fields, request_id: str) -> None:
        """Begin a response whose turn it is; if it fails or has no output, the next one."""
        self._starts += 1
        try:
            if boolean(fields, "generate", default=True):
                _, response = self._responses.start(
                    fields,
                    self.client,
                    self._start,
                    request_id,
                    stream=True,
                    remembered=self._turns,
                )
                self._show(lane, response, 0)
                return
            self._prepare(lane, self._responses.prepare(fields, self.client, self._turns))
        except Elsewhere as elsewhere:
            arriving = asyncio.ensure_future(elsewhere.arrive())
            arriving.add_done_callback(
                lambda done: self._begin_again(done, lane, fields, request_id)
            )
            return
        except ApiError as error:
            self._refuse(error, fields)
        self._begin_next(lane)

    def _start(self, asked: ChatRequest, client: Client) -> WatchedAnswer:
        return self._answers.start(attrs.evolve(asked, headers=self._headers), client)

    def _begin_again(
        self, done: asyncio.Future[None], lane: Lane, fields: Fields, request_id: str
    ) -> None:
        """Begin a response now that what it needed of another process is there."""
        error = done.exception()
        if self.ending is not None:
            return
        if error is None:
            self._begin(lane, fields, request_id)
        elif isinstance(error, ApiError):
            self._refuse(error, fields)
            self._begin_next(lane)
        else:
            raise error

    def _begin_next(self, lane: Lane) -> None:
        """Begin what waits in a lane that is free, if anything does."""
        waiting = self._lanes.get(lane)
        if waiting:
            self._begin(lane, json_text.exact(waiting.popleft()), new_request_id())
        else:
            self._lanes.pop(lane, None)

    def _show(self, lane: Lane, response: ResponseStream, after: int) -> None:
        framing = RESPONSE_FRAMES if lane is None else ResponseFrames(lane)
        viewer = response.attach(self, after, framing)
        self._running[viewer] = (lane, response)
        viewer.catch_up()

    def _prepare(self, lane: Lane, prepared: Prepared) -> None:
        """Send the events of a request that was only prepared."""
        framing = ResponseFrames(lane)
        for event in prepared.events:
            self.send(framing.event(event), "")
        self._remember(prepared)
        self.count_memory()

    def finished(self, viewer: Watcher) -> None:
        """Note that a response has been shown to its end, and begin the next one of its lane."""
        lane, response = self._running.pop(viewer)
        response.seen = True
        self._remember(response)
        if all(lane != busy for busy, _ in self._running.values()):
            self._begin_next(lane)

    def _remember(self, turn: Turn) -> None:
        self._turns[turn.response_id] = turn
        if len(self._turns) > _MOST_REMEMBERED:
            del self._turns[next(iter(self._turns))]

    def leave_all(self) -> None:
        """Stop watching all responses, and forget those that wait."""
        super().leave_all()
        self._running.clear()
        self._lanes.clear()
        self._turns.clear()


def _response_id(fields: Fields) -> str:
    found = optional_text(fields, "response_id")
    if found is None:
        raise missing("response_id")
    return found


@scope("chat")
async def socket(request: web.Request) -> web.StreamResponse:
    """WS /v1/responses."""
    context = request.app[CONTEXT]
    responses = responses_of(request)
    connection = open_socket(
        request,
        lambda deflate: ResponsesSocket(
            context.manager, request, deflate, context.answers, responses
        ),
    )
    if "response_id" in request.query:
        connection.go_on(dict(request.query))
    return TAKEN
