"""The Responses API over WebSocket: OpenAI's WebSocket mode.

``response.create`` events come in, response events go out. Responses of one lane (``stream_id``)
follow each other; lanes run side by side. A client that comes back continues with
``?response_id=...&starting_after=...`` in the address, or with a ``response.resume`` event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import orjson
from aiohttp import web

from streaming_api.errors import ApiError, BadRequest, TooMany
from streaming_api.faces.fields import invalid, missing, optional_text, unsupported
from streaming_api.faces.framing import RESPONSE_FRAMES, ResponseFrames
from streaming_api.faces.kept_responses import Responses, ResponseStream, starting_after
from streaming_api.ops.context import CONTEXT, client_of, route_of
from streaming_api.web.command_handler import CommandHandler
from streaming_api.web.guard import scope
from streaming_api.web.responses import responses_of
from streaming_api.web.takeover import TAKEN
from streaming_api.web.websocket import WebSocket, open_socket
from streaming_api.wire.commands import parse_object

if TYPE_CHECKING:
    from streaming_api.answers.answers import Answers
    from streaming_api.connections.manager import ConnectionManager
    from streaming_api.engine.sink import Watcher
    from streaming_api.wire.deflate import Deflate
    from streaming_api.wire.framing import Framing

_MOST_WAITING: Final = 32
"""Responses that may wait on one connection for others in their lane."""

Fields = dict[str, object]


class ResponsesSocket(WebSocket):
    """One client of the WebSocket mode."""

    __slots__ = ("_answers", "_framings", "_latest", "_responses", "_running", "_waiting_in")

    def __init__(
        self,
        manager: ConnectionManager,
        request: web.Request,
        deflate: Deflate | None,
        answers: Answers,
        responses: Responses,
    ) -> None:
        handler = CommandHandler(request.app[CONTEXT], chat_only=True)
        super().__init__(manager, client_of(request), route_of(request), deflate, handler)
        self._answers = answers
        self._responses = responses
        self._running: dict[Watcher, tuple[str | None, ResponseStream]] = {}
        self._waiting_in: dict[str | None, deque[bytes]] = {}  # bodies, by lane
        self._framings: dict[str | None, Framing] = {None: RESPONSE_FRAMES}
        self._latest: ResponseStream | None = None  # may be continued from, stored or not

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
            answer.cancel()
        else:
            raise BadRequest(
                "type must be response.create, response.resume or response.cancel.",
                "unknown_event_type",
                param="type",
            )

    def tell(self, error: ApiError, fields: Fields) -> None:
        """Report an error about an event; the connection stays open."""
        self.manager.refused(error)
        told: Fields = {"type": "error", "status": error.status, "error": error.body()}
        lane = fields.get("stream_id")
        if isinstance(lane, str) and len(lane) <= 128:
            told["stream_id"] = lane
        self.send(orjson.dumps(told), "")

    def go_on(self, query: Mapping[str, str]) -> None:
        """Resume the response that the address of a returning client names."""
        self._run({**query, "type": "response.resume"}, b"")

    def _resume(self, lane: str | None, fields: Fields) -> None:
        """Show a response from strictly after the last event that the client has seen.

        Raises:
            ApiError: this fails; the client is sent this error.
        """
        _, response = self._responses.find(self.client, _response_id(fields))
        given = fields.get("starting_after")
        after = starting_after(None if given is None else str(given))
        response.check(after)
        self._show(lane, response, after)

    @property
    def unread(self) -> int:
        """Bytes that are not a whole message yet, and those that wait for their lane."""
        waiting = sum(len(text) for texts in self._waiting_in.values() for text in texts)
        return super().unread + waiting

    def _create(self, lane: str | None, fields: Fields, text: bytes) -> None:
        if fields.get("background") is not None:
            raise unsupported("background")
        if fields.get("stream") not in {None, True}:
            raise invalid("stream", "left out: events are what this connection is for")
        if fields.get("generate") is False:
            raise unsupported("generate")
        if any(lane == busy for busy, _ in self._running.values()):
            if sum(map(len, self._waiting_in.values())) >= _MOST_WAITING:
                message = f"{_MOST_WAITING} responses wait on this connection already."
                raise TooMany(message, "too_many_answers", retry_after=1)
            self.share.check(len(text))
            self._waiting_in.setdefault(lane, deque()).append(text)
            self.count_memory()
            return
        _, response = self._responses.start(
            fields, self.client, self._answers.start, stream=True, remembered=self._latest
        )
        self._show(lane, response, 0)

    def _show(self, lane: str | None, response: ResponseStream, after: int) -> None:
        if lane not in self._framings:
            self._framings[lane] = ResponseFrames(lane)
        viewer = response.attach(self, after, self._framings[lane])
        self._running[viewer] = (lane, response)
        viewer.catch_up()

    def finished(self, viewer: Watcher) -> None:
        """Note that a response has been shown to its end, and begin the next one of its lane."""
        lane, response = self._running.pop(viewer)
        response.seen = True
        self._latest = response
        waiting = self._waiting_in.get(lane)
        if not waiting:
            return
        text = waiting.popleft()
        if not waiting:
            del self._waiting_in[lane]
        fields = parse_object(text)
        try:
            self._create(lane, fields, text)
        except ApiError as error:
            self.tell(error, fields)

    def leave_all(self) -> None:
        """Stop watching all responses, and forget those that wait."""
        super().leave_all()
        self._running.clear()
        self._waiting_in.clear()


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
