"""OpenAPI of the wires of other APIs: chat completions, Responses, UI messages. Data only."""

from __future__ import annotations

from typing import Final

from streaming_api.config.schema import RELAY_PATHS
from streaming_api.web.openapi_parts import (
    OPENING,
    UPSTREAM,
    Json,
    json_of,
    operation,
    ref,
    reply,
)

_ID: Final = {"X-Request-Id": {"required": True, "schema": ref("schemas", "RequestId")}}
_COMPLETION: Final = reply(
    "The whole answer, or its chunks as OpenAI sends them, [DONE] after an answer that the model"
    " has ended itself, an error object after any other. The id of an event names the answer and"
    " the event's place in it.",
    {
        **json_of("Completion"),
        "text/event-stream": {"schema": ref("schemas", "CompletionEvent")},
    },
    _ID,
)
_RESPONSE: Final = reply(
    "The response as of now; with stream, its events.",
    {
        **json_of("Response"),
        "text/event-stream": {"schema": ref("schemas", "ResponseEvent")},
    },
)
_UI_MESSAGE: Final = reply(
    "A UI message stream of the AI SDK, [DONE] at its end.",
    {"text/event-stream": {"schema": ref("schemas", "UiMessageEvent")}},
    {
        **_ID,
        "x-vercel-ai-ui-message-stream": {"required": True, "schema": {"const": "v1"}},
    },
)
_SEEN: Final = reply("It has ended, and all of it was seen.")

_COMPLETIONS: Final = {
    "post": operation(
        "OpenAI's chat completions",
        {200: _COMPLETION, **UPSTREAM},
        *(400, 404, 410, 413, 422, 502, *OPENING),
        tag="OpenAI",
        scope="chat",
        parameters=("Idempotency-Key",),
        body="ChatRequest",
    )
}
_MODELS: Final = {
    "get": operation(
        "The model server's models",
        {200: reply("OpenAI's list", json_of("Models")), **UPSTREAM},
        *(404, 502, 503),
        tag="OpenAI",
        scope="chat",
    )
}
_CHAT: Final[Json] = {
    "/v1/chat/completions": _COMPLETIONS,
    "/chat/completions": _COMPLETIONS,
    "/v1/chat/completions/{request_id}": {
        "get": operation(
            "An answer once more, or what of it the client has not seen",
            {200: _COMPLETION, 204: _SEEN, **UPSTREAM},
            *(400, 404, 410, *OPENING),
            tag="OpenAI",
            scope="chat",
            parameters=("request_id", "after", "cursor", "Last-Event-ID"),
        ),
        "delete": operation(
            "Cancel an answer if it runs, and keep it no longer",
            {200: reply("It is gone.", json_of("Deleted"))},
            *(404, 410),
            tag="OpenAI",
            scope="chat",
            parameters=("request_id",),
        ),
    },
    "/v1/models": _MODELS,
    "/models": _MODELS,
    "/v1/models/{model}": {
        "get": operation(
            "One of them",
            {200: reply("OpenAI's object", {"application/json": {}}), **UPSTREAM},
            *(404, 502, 503),
            tag="OpenAI",
            scope="chat",
            parameters=("model",),
        )
    },
}
_RESPONSES: Final[Json] = {
    "/v1/responses": {
        "get": operation(
            "OpenAI's WebSocket mode: response.create events in, response events out",
            {101: reply("The connection speaks WebSocket; see /streaming/asyncapi.json.")},
            *(400, 404, 426, *OPENING),
            tag="OpenAI",
            scope="chat",
            parameters=("response_id", "starting_after"),
        ),
        "post": operation(
            "OpenAI's responses: whole, streamed, or in the background",
            {200: _RESPONSE, **UPSTREAM},
            *(400, 404, 410, 413, 422, 502, *OPENING),
            tag="OpenAI",
            scope="chat",
            parameters=("Idempotency-Key",),
            body="ResponseRequest",
        ),
    },
    "/v1/responses/{id}": {
        "get": operation(
            "A response, or its events from any place on",
            {200: _RESPONSE},
            *(400, 404, 410, *OPENING),
            tag="OpenAI",
            scope="chat",
            parameters=("id", "stream", "starting_after"),
        ),
        "delete": operation(
            "End a response if it runs, and keep it no longer",
            {200: reply("It is gone.", json_of("Deleted"))},
            404,
            tag="OpenAI",
            scope="chat",
            parameters=("id",),
        ),
    },
    "/v1/responses/{id}/cancel": {
        "post": operation(
            "Cancel a response; harmless if it has ended",
            {200: reply("The response as it ended", json_of("Response"))},
            404,
            tag="OpenAI",
            scope="chat",
            parameters=("id",),
        )
    },
    "/v1/responses/{id}/input_items": {
        "get": operation(
            "The items of the conversation that was answered",
            {200: reply("A page of them", json_of("ResponseItems"))},
            *(400, 404),
            tag="OpenAI",
            scope="chat",
            parameters=("id", "limit", "order", "after_item"),
        )
    },
}
_UI_CHATS: Final[Json] = {
    "/api/chat": {
        "post": operation(
            "What useChat of the AI SDK sends",
            {200: _UI_MESSAGE, **UPSTREAM},
            *(400, 404, 410, 413, 422, 502, *OPENING),
            tag="AI SDK",
            scope="chat",
            parameters=("Idempotency-Key",),
            body="UiChatRequest",
        )
    },
    "/api/chat/{id}/stream": {
        "get": operation(
            "The message that is being said, from its start",
            {200: _UI_MESSAGE, 204: reply("None is."), **UPSTREAM},
            *(404, 410, *OPENING),
            tag="AI SDK",
            scope="chat",
            parameters=("chat",),
        )
    },
    "/api/chat/{id}": {
        "delete": operation(
            "Stop what is being said",
            {204: reply("Nothing is, now or before.")},
            404,
            tag="AI SDK",
            scope="chat",
            parameters=("chat",),
        )
    },
}

_RELAYED: Final = {
    "post": operation(
        "Passed on to the model server as it is (monitoring.relay_paths)",
        {200: reply("The model server's own", {"*/*": {}}), **UPSTREAM},
        *(404, 502, *OPENING),
        tag="passed on",
        scope="chat",
    )
}
_RELAYED_REST: Final = {"post": {**_RELAYED["post"], "parameters": [ref("parameters", "rest")]}}
_RELAY: Final[Json] = {
    path.replace("*", "{rest}"): _RELAYED_REST if path.endswith("*") else _RELAYED
    for path in RELAY_PATHS
}

FACES: Final[Json] = {**_CHAT, **_RESPONSES, **_UI_CHATS, **_RELAY}
