"""The Responses API over HTTP (OpenAI; Open Responses): create, retrieve, cancel, delete."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final

import attrs
import orjson
from aiohttp import hdrs, web

from streaming_api.answers.elsewhere import when_arrived
from streaming_api.connections.endings import CloseReason
from streaming_api.errors import ApiError, BadRequest
from streaming_api.faces import framing
from streaming_api.faces.fields import invalid, unsupported
from streaming_api.faces.kept_responses import Responses, ResponseStream, starting_after
from streaming_api.ops.context import CONTEXT, client_of
from streaming_api.web.body import read_exactly
from streaming_api.web.completion import Completion, head_alone, with_headers
from streaming_api.web.guard import scope
from streaming_api.web.sse import idempotency_key
from streaming_api.web.takeover import reserve_slot
from streaming_api.wire.commands import new_request_id

if TYPE_CHECKING:
    from streaming_api.access.client import Client
    from streaming_api.answers.watched_answer import WatchedAnswer
    from streaming_api.engine.sink import Watcher
    from streaming_api.engine.viewer import Viewer
    from streaming_api.wire.commands import ChatRequest

CANCEL_SECONDS: Final = 5.0
"""Seconds that a cancelled answer gets to end."""


class ResponseReply(Completion):
    """One client of a response, which is sent the events or the whole object."""

    FRAMINGS: ClassVar = (framing.RESPONSES, framing.CHUNKED_RESPONSES)

    __slots__ = ("_at_once", "_response", "_streamed")

    def __init__(
        self,
        request: web.Request,
        answer: WatchedAnswer,
        response: ResponseStream,
        after: int = 0,
        *,
        streamed: bool,
        at_once: bool = False,
    ) -> None:
        super().__init__(request, answer, after, response)
        self._response = response
        self._streamed = streamed
        self._at_once = at_once

    @property
    def streamed(self) -> bool:
        """Whether the client is sent events instead of one object."""
        return self._streamed

    @property
    def missing(self) -> bool:
        """Whether part of what the client is to receive is no longer kept."""
        if self._response.lost:
            return True
        return self._streamed and self._response.stream.evicted > self._after

    def attach(self) -> Viewer:
        """Begin to watch; a client that wants the whole needs no events."""
        if not self._streamed:
            return self._response.wait(self)
        return super().attach()

    def begin(self) -> None:
        """Watch the response; some do not wait for the first token, but are to come back."""
        if not self._at_once:
            super().begin()
            return
        self._viewer = self.attach()
        self._show(self._viewer)

    def reply_whole(self) -> bool:
        """Send the response object, if the response has ended."""
        if not self._response.ended:
            self._response.on_ended.append(self._begun)
            return True
        self.reply(200, orjson.dumps(self._response.response))
        return True

    def finished(self, viewer: Watcher) -> None:  # noqa: ARG002 (there is one)
        """Note that the last event, which says how the response ended, has been written."""
        self._response.seen = True
        self.end_body(CloseReason.FINISHED)

    def send_error(self, error: ApiError) -> None:
        """Report why the events stop before the last one."""
        event = error_event(error, self._response.channel.number)
        self.comment(b"event: error\ndata: %b\n\n" % event)


def error_event(error: ApiError, sequence_number: int) -> bytes:
    """Return the ``error`` event of a stream that breaks off, as both standards have it."""
    body = error.body()
    return orjson.dumps(
        {
            "type": "error",
            "sequence_number": sequence_number,
            "code": body["code"],
            "message": body["message"],
            "param": body["param"],
            "error": body,
        }
    )


def responses_of(request: web.Request) -> Responses:
    """Return the responses of this server.

    Raises:
        NotFound: chat is switched off.
    """
    context = request.app[CONTEXT]
    context.answers.require()
    return Responses(context.answers)


async def _found(request: web.Request) -> tuple[WatchedAnswer, ResponseStream]:
    responses, client = responses_of(request), client_of(request)
    return await when_arrived(lambda: responses.find(client, request.match_info["id"]))


@scope("chat")
async def create(request: web.Request) -> web.StreamResponse:
    """POST /v1/responses: whole, streamed, or in the background."""
    context = request.app[CONTEXT]
    responses = responses_of(request)
    client = client_of(request)
    client.take_command()
    key = idempotency_key(request)

    def begin(asked: ChatRequest, client: Client) -> WatchedAnswer:
        known = attrs.evolve(with_headers(asked, request), digest=digest)
        return context.retries.start(key, known, client)

    body, digest = await read_exactly(request, key)
    if body.get("generate") is False:
        raise unsupported("generate")  # only a connection that stays keeps what is prepared
    start = partial(responses.start, body, client, begin, new_request_id())
    if body.get("background") is True and body.get("stream") is not True:
        _, response = await when_arrived(start)
        return _json(response.response)
    with reserve_slot(request, "sse") as slot:
        answer, response = await when_arrived(start)
        streamed = body.get("stream") is True
        at_once = streamed and response.asked.background
        connection = ResponseReply(request, answer, response, streamed=streamed, at_once=at_once)
        return connection.open(request, slot)


@scope("chat")
async def retrieve(request: web.Request) -> web.StreamResponse:
    """GET /v1/responses/{id}: the object as it is now, or (``?stream=true``) the events."""
    answer, response = await _found(request)
    if request.query.get("stream", "false").lower() not in {"true", "1"}:
        return _json(response.response)
    after = starting_after(request.query.get("starting_after"))
    response.check(after)
    if request.method == hdrs.METH_HEAD:
        return head_alone()
    with reserve_slot(request, "sse") as slot:
        connection = ResponseReply(request, answer, response, after, streamed=True, at_once=True)
        return connection.open(request, slot)


@scope("chat")
async def cancel(request: web.Request) -> web.Response:
    """POST /v1/responses/{id}/cancel: cancel and return the response as it ended; idempotent."""
    answer, response = await _found(request)
    request.app[CONTEXT].answers.cancel(answer, client_of(request))
    await response.until_ended(CANCEL_SECONDS)
    return _json(response.response)


@scope("chat")
async def delete(request: web.Request) -> web.Response:
    """DELETE /v1/responses/{id}: cancel the response if it runs, and keep it no longer."""
    response_id = request.match_info["id"]
    answer, _ = await _found(request)
    answers = request.app[CONTEXT].answers
    answers.cancel(answer, client_of(request))
    answers.delete(answer)
    return _json({"id": response_id, "object": "response", "deleted": True})


@scope("chat")
async def input_items(request: web.Request) -> web.Response:
    """GET /v1/responses/{id}/input_items: the conversation that was answered, page by page."""
    _, response = await _found(request)
    items = list(response.asked.items)
    order = request.query.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise invalid("order", "asc or desc")
    if order == "desc":
        items.reverse()
    if (after := request.query.get("after")) is not None:
        places = [place for place, item in enumerate(items) if item["id"] == after]
        if not places:
            raise invalid("after", "the id of an item")
        items = items[places[0] + 1 :]
    page = items[: _limit(request)]
    return _json(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(page) < len(items),
        }
    )


def _limit(request: web.Request) -> int:
    given = request.query.get("limit", "20")
    if not given.isascii() or not given.isdigit() or not 1 <= int(given[:4]) <= 100:
        raise BadRequest("limit must be a number from 1 to 100.", "invalid_value", param="limit")
    return int(given)


def _json(value: object) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")
