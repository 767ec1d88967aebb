"""The backend of the AI SDK's ``useChat`` (npm ``ai``, version 5 and later): UI message streams.

A page with ``useChat({resume: true})`` needs nothing else: it posts to ``/api/chat``, asks for
``/api/chat/{id}/stream`` when it is loaded, and is shown the whole message again. ``DELETE`` stops
an answer: a page that only leaves does not, for it may come back.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final

import attrs
import orjson
from aiohttp import hdrs, web

from streaming_api.answers.elsewhere import when_arrived
from streaming_api.connections.endings import CloseReason
from streaming_api.errors import ApiError, Gone, NotFound
from streaming_api.faces import framing
from streaming_api.faces.derived import Derived
from streaming_api.faces.ui_chats import UiChats, stream_of
from streaming_api.faces.ui_request import chat_fields, chat_id, message_id
from streaming_api.ops.context import CONTEXT, client_of
from streaming_api.upstreams.reply_errors import UpstreamError
from streaming_api.web.body import read_exactly
from streaming_api.web.completion import Completion, head_alone, with_headers
from streaming_api.web.guard import scope
from streaming_api.web.sse import idempotency_key
from streaming_api.web.takeover import reserve_slot
from streaming_api.wire.commands import OnDisconnect, chat_request

if TYPE_CHECKING:
    from streaming_api.answers.watched_answer import WatchedAnswer
    from streaming_api.engine.sink import Watcher

UI_CHATS: Final = web.AppKey("ui_chats", UiChats)


class UiReply(Completion):
    """One page, which is shown a message from its start: one that comes back starts afresh."""

    FRAMINGS: ClassVar = (framing.UI_MESSAGES, framing.CHUNKED_UI_MESSAGES)
    HEAD: ClassVar = "x-vercel-ai-ui-message-stream: v1\r\n"

    __slots__ = ("_derived",)

    def __init__(self, request: web.Request, answer: WatchedAnswer, derived: Derived) -> None:
        super().__init__(request, answer, shown=derived)
        self._derived = derived

    @property
    def missing(self) -> bool:
        """Whether the beginning of the message is no longer kept."""
        return self._derived.lost or bool(self._derived.stream.evicted)

    def finished(self, viewer: Watcher) -> None:  # noqa: ARG002 (there is one)
        """Note that the message has ended; its last event says so."""
        self._derived.seen = True
        self.end_body(CloseReason.FINISHED)

    def send_error(self, error: ApiError) -> None:
        """Report why the message stops before its end."""
        event = orjson.dumps({"type": "error", "errorText": error.message})
        self.comment(b"data: %b\n\n" % event)


@scope("chat")
async def start(request: web.Request) -> web.StreamResponse:
    """POST /api/chat: what ``useChat`` sends; the answer as a UI message stream."""
    context = request.app[CONTEXT]
    context.answers.require()
    client = client_of(request)
    client.take_command()
    key = idempotency_key(request)
    fields, digest = await read_exactly(request, key)
    chat = chat_id(fields)
    body = chat_fields(fields)
    if body.get("model") is None and (model := await _first_model(request)) is not None:
        body["model"] = model
    question = chat_request(body, orjson.dumps(body), on_disconnect=OnDisconnect.GRACE)
    asked = attrs.evolve(with_headers(question, request), digest=digest)
    with reserve_slot(request, "sse") as slot:
        answer = await when_arrived(lambda: context.retries.start(key, asked, client))
        if context.cluster is not None:
            context.cluster.note_chat((client.owner, answer.request_id), chat)
        derived = stream_of(answer, message_id(fields))
        request.app[UI_CHATS].put(client, chat, derived)
        return UiReply(request, answer, derived).open(request, slot)


async def _first_model(request: web.Request) -> str | None:
    """Return the model for a page that names none: the first listed that its key may ask."""
    client = client_of(request)
    try:
        listed = await request.app[CONTEXT].upstream.models(client.authorization)
    except UpstreamError:
        return None
    names = (str(model["id"]) for model in listed)
    return next(filter(client.may_ask, names), None)


async def _newest(request: web.Request) -> WatchedAnswer | None:
    """Return the newest answer of a chat, whichever process it is on."""
    context, client = request.app[CONTEXT], client_of(request)
    chat = request.match_info["id"]
    here = request.app[UI_CHATS].get(client, chat)
    elsewhere = None
    if context.cluster is not None:
        elsewhere = await context.cluster.chat_answer(client.owner, chat)
    for request_id in (elsewhere, here):
        if request_id is not None:
            with contextlib.suppress(NotFound, Gone):
                find = partial(context.answers.find, client.owner, request_id)
                return await when_arrived(find)
    return None


@scope("chat")
async def resume(request: web.Request) -> web.StreamResponse:
    """GET /api/chat/{id}/stream: the message in progress, from its start; 204 if there is none.

    A message that has ended without anybody seeing its end is still shown.
    """
    context = request.app[CONTEXT]
    context.answers.require()
    answer = await _newest(request)
    if answer is None:
        return web.Response(status=204)
    derived = stream_of(answer)
    if derived.ended and derived.seen:
        return web.Response(status=204)
    if request.method == hdrs.METH_HEAD:
        return head_alone()
    with reserve_slot(request, "sse") as slot:
        return UiReply(request, answer, derived).open(request, slot)


@scope("chat")
async def stop(request: web.Request) -> web.Response:
    """DELETE /api/chat/{id}: stop the message in progress; idempotent."""
    context = request.app[CONTEXT]
    context.answers.require()
    answer = await _newest(request)
    if answer is not None:
        context.answers.cancel(answer, client_of(request))
        await answer.cancelled()
    return web.Response(status=204)
