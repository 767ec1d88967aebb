"""OpenAI's own wire on the same engine: an OpenAI SDK works with only its ``base_url`` changed.

OpenAI API reference, "Create chat completion".
"""

from __future__ import annotations

import orjson
from aiohttp import hdrs, web

from streaming_api.answers.elsewhere import when_arrived
from streaming_api.answers.idempotency import recognisable
from streaming_api.errors import BadRequest, Gone, NotFound
from streaming_api.ops.context import CONTEXT, client_of
from streaming_api.upstreams import reply_errors
from streaming_api.web.body import read_json
from streaming_api.web.completion import Completion, error_of, head_alone, with_headers
from streaming_api.web.guard import scope
from streaming_api.web.sse import idempotency_key, last_seen
from streaming_api.web.takeover import reserve_slot
from streaming_api.wire.commands import ChatRequest, OnDisconnect, chat_request


@scope("chat")
async def chat_completions(request: web.Request) -> web.StreamResponse:
    """POST /v1/chat/completions, ``stream`` true or false (default)."""
    context = request.app[CONTEXT]
    context.answers.require()
    client = client_of(request)
    client.take_command()
    key = idempotency_key(request)
    # A client that marks a question for retries comes back for its answer.
    leaving = OnDisconnect.CANCEL if key is None else OnDisconnect.GRACE

    def read(fields: dict[str, object], text: bytes) -> ChatRequest:
        if fields.get("stream") is None:
            fields["stream"] = False
        return recognisable(chat_request(fields, text, on_disconnect=leaving), key)

    asked = with_headers(await read_json(request, read), request)
    with reserve_slot(request, "sse") as slot:
        answer = await when_arrived(lambda: context.retries.start(key, asked, client))
        return Completion(request, answer).open(request, slot)


@scope("chat")
async def watch_completion(request: web.Request) -> web.StreamResponse:
    """GET /v1/chat/completions/{request_id}: continue after ``Last-Event-ID`` or ``?after=``."""
    context = request.app[CONTEXT]
    context.answers.require()
    owner, request_id = client_of(request).owner, request.match_info["request_id"]
    answer = await when_arrived(lambda: context.answers.find(owner, request_id))
    after, fault = last_seen(request, answer)
    if fault is not None or not answer.reaches(after):
        message = "No event of this answer has that id; leave it out to get all of them."
        raise BadRequest(message, "invalid_value", param=hdrs.LAST_EVENT_ID)
    if answer.request.stream and answer.has_seen_all(after):
        return web.Response(status=204)
    if answer.stream.evicted > after:
        message = "What follows that event is no longer kept; ask again."
        raise Gone(message, "stream_evicted")
    if request.method == hdrs.METH_HEAD:
        return head_alone()
    with reserve_slot(request, "sse") as slot:
        return Completion(request, answer, after).open(request, slot)


@scope("chat")
async def delete_completion(request: web.Request) -> web.Response:
    """DELETE /v1/chat/completions/{request_id}: cancel the answer and keep it no longer."""
    answers, client = request.app[CONTEXT].answers, client_of(request)
    answers.require()
    request_id = request.match_info["request_id"]
    answer = await when_arrived(lambda: answers.find(client.owner, request_id))
    answers.cancel(answer, client)
    answers.delete(answer)
    return _json({"id": request_id, "object": "chat.completion.deleted", "deleted": True})


@scope("chat")
async def models(request: web.Request) -> web.Response:
    """GET /v1/models: of the upstream's list, what the client's key may ask."""
    return _json({"object": "list", "data": await _models(request)})


@scope("chat")
async def model(request: web.Request) -> web.Response:
    """GET /v1/models/{model}: one model of the upstream's list."""
    name = request.match_info["model"]
    for found in await _models(request):
        if found.get("id") == name:
            return _json(found)
    message = f"The model '{name[:200]}' does not exist; GET /v1/models lists those that do."
    raise NotFound(message, "model_not_found", param="model")


async def _models(request: web.Request) -> list[dict[str, object]]:
    context = request.app[CONTEXT]
    context.answers.require()
    client = client_of(request)
    try:
        listed = await context.upstream.models(client.authorization)
    except reply_errors.UpstreamError as failed:
        raise error_of(failed.error, "error") from None
    return [model for model in listed if client.may_ask(str(model.get("id")))]


def _json(value: object) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")
