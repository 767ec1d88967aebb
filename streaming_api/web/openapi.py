"""OpenAPI 3.1 of every HTTP endpoint. Data only: knows no aiohttp and no handler.

What is said here is what the handlers do, and `tests/unit/test_contract.py` holds it against the
application's own routes and replies. Every operation may also be answered with the errors of the
guard (`streaming_api.web.guard`), which `_operation` adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

Json = Mapping[str, object]

_DESCRIPTION: Final = """\
LLM answers, metrics, alerts and status, streamed. The messages on event streams are described by
the schema Message, and the WebSocket by AsyncAPI at /streaming/asyncapi.json.

Where GET is described, HEAD is answered, too. Another method gets 405 with Allow, another path 404,
both with an Error; what is not HTTP/1.1 gets 400 in plain text and the connection is closed. Keys
are asked for only where the operator has configured some: without, whoever reaches the port has
every scope."""

# Errors: status -> name of the shared response, what it means, headers that may come with it.

_RETRY_AFTER: Final[Json] = {
    "Retry-After": {
        "description": "Seconds after which trying again makes sense.",
        "schema": {"type": "integer", "minimum": 1},
    }
}
_CHALLENGE: Final[Json] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
_UPGRADE: Final[Json] = {
    "Upgrade": {"required": True, "schema": {"type": "string", "const": "websocket"}},
    "Sec-WebSocket-Version": {"required": True, "schema": {"type": "string", "const": "13"}},
}
_ERRORS: Final[Mapping[int, tuple[str, str, Json]]] = {
    400: ("BadRequest", "The request is wrong, or its body came too slowly.", {}),
    401: ("Unauthorized", "No API key or ticket, or a bad one.", _CHALLENGE),
    403: ("Forbidden", "A foreign Origin or Host, or a key without the scope.", {}),
    404: ("NotFound", "No such stream, or a feature that is switched off here.", {}),
    410: ("Gone", "The answer has ended and is no longer kept.", {}),
    413: ("TooLarge", "The body is above websocket.message_size_limit.", {}),
    426: ("UpgradeRequired", "This path speaks WebSocket, version 13.", _UPGRADE),
    429: ("TooMany", "A limit of this client: too fast, or too much at once.", _RETRY_AFTER),
    500: ("Internal", "The server failed; the operator finds the reason in its log.", {}),
    502: ("UpstreamFailed", "The model server cannot be reached or does not make sense.", {}),
    503: ("Unavailable", "A limit of the whole server, or it is stopping.", _RETRY_AFTER),
}
_UPSTREAM: Final = "The model server's own refusal, with its own status and words."
_ALWAYS: Final = (403, 500)
_OPENING: Final = (429, 503)  # admission of one more connection

# Parts


def _ref(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


def _json(schema: str) -> Json:
    return {"application/json": {"schema": _ref("schemas", schema)}}


def _reply(description: str, content: Json | None = None, headers: Json | None = None) -> Json:
    reply: dict[str, object] = {"description": description}
    if headers:
        reply["headers"] = headers
    if content:
        reply["content"] = content
    return reply


def _operation(
    summary: str,
    replies: Mapping[int | str, Json],
    *errors: int,
    tag: str,
    scope: str | None = None,
    parameters: Sequence[str] = (),
    body: str | None = None,
) -> Json:
    """One operation.

    Args:
        errors: statuses of `_ERRORS` besides those that any operation may have.
        scope: what a key must have; "" for any key, None for everybody.
        parameters: names of shared parameters.
        body: the schema of the request's JSON.
    """
    statuses = {*errors, *_ALWAYS} if scope is None else {*errors, *_ALWAYS, 401}
    shared = {status: _ref("responses", _ERRORS[status][0]) for status in statuses}
    responses: dict[int | str, Json] = {**shared, **replies}
    operation: dict[str, object] = {
        "summary": summary,
        "tags": [tag],
        "responses": {str(status): responses[status] for status in sorted(responses, key=str)},
    }
    if scope is not None:
        roles = [scope] if scope else []
        operation["security"] = [{"key": roles}, {"ticket": roles}, {}]
    if parameters:
        operation["parameters"] = [_ref("parameters", name) for name in parameters]
    if body is not None:
        operation["requestBody"] = {"required": True, "content": _json(body)}
    return operation


_EVENTS: Final = _reply(
    "Server-Sent Events: event is the message_type, id the cursor, data a Message. First a retry:"
    " line; a comment after silence. An answer's stream ends with its end message.",
    {
        "text/event-stream": {
            "schema": {"type": "string"},
            "example": "retry: 5000\n\nevent: status_update\nid: 4be1f0d2a9c37856:7\n"
            'data: {"message_type":"status_update","stream_id":"status",'
            '"cursor":"4be1f0d2a9c37856:7","sequence_id":7,'
            '"timestamp":"2026-01-31T12:00:00.000Z","data":{"event":"snapshot","components":{}}}'
            "\n\n",
        }
    },
    {
        "Cache-Control": {"schema": {"type": "string"}},
        "X-Accel-Buffering": {"schema": {"type": "string"}},
    },
)
_UNCHANGED: Final = _reply("The ETag of If-None-Match is still good.")


def _document(title: str, media_schema: Json) -> Json:
    """One of the machine-readable contracts."""
    etag = {"ETag": {"required": True, "schema": {"type": "string"}}}
    reply = _reply(title, {"application/json": {"schema": media_schema}}, etag)
    return {"get": _operation(title, {200: reply, 304: _UNCHANGED}, tag="contract")}


def _socket(summary: str) -> Json:
    return {
        "get": _operation(
            summary,
            {101: _reply("The connection speaks WebSocket now; see /streaming/asyncapi.json.")},
            *(400, 404, 426, *_OPENING),
            tag="websocket",
            scope="",
        )
    }


# Paths

_STREAMS: Final[Json] = {
    "/streaming/websocket": _socket("Answers and topics on one socket"),
    "/streaming/websocket/chat": _socket("Answers alone"),
    "/streaming/sse": {
        "get": _operation(
            "Watch several topics",
            {200: _EVENTS},
            *(404, *_OPENING),
            tag="event streams",
            scope="watch",
            parameters=("topics", "cursor", "Last-Event-ID"),
        )
    },
    "/streaming/sse/{topic}": {
        "get": _operation(
            "Watch one topic",
            {200: _EVENTS},
            *(404, *_OPENING),
            tag="event streams",
            scope="watch",
            parameters=("topic", "cursor", "Last-Event-ID"),
        )
    },
}
_ANSWERS: Final[Json] = {
    "/streaming/sse/chat": {
        "post": _operation(
            "Start an answer, or attach to it, and watch it",
            {200: _EVENTS},
            *(400, 404, 413, *_OPENING),
            tag="answers",
            scope="chat",
            body="ChatRequest",
        )
    },
    "/streaming/sse/chat/{request_id}": {
        "get": _operation(
            "Watch an answer, or resume it",
            {200: _EVENTS, 204: _reply("The answer has ended and all of it was seen.")},
            *(400, 404, 410, *_OPENING),
            tag="answers",
            scope="chat",
            parameters=("request_id", "after", "cursor", "Last-Event-ID"),
        )
    },
    "/streaming/chat/{request_id}": {
        "delete": _operation(
            "Cancel an answer",
            {204: _reply("It has ended, now or before.")},
            *(400, 404, 410),
            tag="answers",
            scope="chat",
            parameters=("request_id",),
        )
    },
    "/v1/chat/completions": {
        "post": _operation(
            "OpenAI's chat completions",
            {
                200: _reply(
                    "The whole answer, or its chunks as OpenAI sends them, [DONE] after an answer"
                    " that the model has ended itself, an error object after any other.",
                    {**_json("Completion"), "text/event-stream": {"schema": {"type": "string"}}},
                    {"X-Request-Id": {"required": True, "schema": _ref("schemas", "RequestId")}},
                ),
                "4XX": _reply(_UPSTREAM, _json("Error")),
                "5XX": _reply(_UPSTREAM, _json("Error")),
            },
            *(400, 404, 413, 502, *_OPENING),
            tag="OpenAI",
            scope="chat",
            parameters=("Idempotency-Key",),
            body="ChatRequest",
        )
    },
    "/v1/models": {
        "get": _operation(
            "The model server's models",
            {
                200: _reply("OpenAI's list", _json("Models")),
                "4XX": _reply(_UPSTREAM, _json("Error")),
                "5XX": _reply(_UPSTREAM, _json("Error")),
            },
            *(404, 502, 503),
            tag="OpenAI",
            scope="chat",
        )
    },
}
_OPERATIONS: Final[Json] = {
    "/streaming/alerts": {
        "post": _operation(
            "Alertmanager's webhook",
            {200: _reply("The alerts are on the topic.", _json("Accepted"))},
            *(400, 404, 413),
            tag="operations",
            scope="alerts",
            body="AlertmanagerWebhook",
        )
    },
    "/streaming/tickets": {
        "post": _operation(
            "A one-use ticket, for a client that cannot send headers",
            {201: _reply("The ticket", _json("Ticket"))},
            tag="operations",
            scope="",
        )
    },
    "/streaming/connections": {
        "get": _operation(
            "Who is connected",
            {200: _reply("Counts, limits and a row per connection", _json("Connections"))},
            tag="operations",
            scope="watch",
        )
    },
    "/streaming/status": {
        "get": _operation(
            "Capabilities, limits, health of the parts",
            {200: _reply("The status", _json("Status"))},
            tag="operations",
            scope="watch",
        )
    },
    "/streaming/metrics": {
        "get": _operation(
            "The figures of /metrics as JSON, with shares and percentiles",
            {200: _reply("The figures", _json("Figures"))},
            tag="operations",
            scope="watch",
        )
    },
    "/health": {
        "get": _operation(
            "Whether it serves",
            {
                200: _reply("It serves.", _json("Health")),
                503: _reply("It is stopping.", _json("Health")),
            },
            tag="operations",
        )
    },
    "/metrics": {
        "get": _operation(
            "Figures for Prometheus",
            {
                200: _reply(
                    "Prometheus' text format, or OpenMetrics where Accept asks for it.",
                    {
                        "text/plain": {"schema": {"type": "string"}},
                        "application/openmetrics-text": {"schema": {"type": "string"}},
                    },
                )
            },
            tag="operations",
            scope="watch",
        )
    },
}
_REST: Final[Json] = {
    "/": {
        "get": _operation(
            "The live page",
            {200: _reply("HTML", {"text/html": {"schema": {"type": "string"}}})},
            tag="page",
        )
    },
    "/static/{file}": {
        "get": _operation(
            "What the page is made of",
            {
                200: _reply("The file", {"*/*": {}}),
                206: _reply("The Range of it that was asked for", {"*/*": {}}),
                304: _UNCHANGED,
                404: _reply("No such file", {"application/octet-stream": {}, **_json("Error")}),
                412: _reply("If-Match or If-Unmodified-Since does not hold."),
                416: _reply("No such Range in this file", {"application/octet-stream": {}}),
            },
            tag="page",
            parameters=("file",),
        )
    },
    "/streaming/schema": _document("JSON Schema of a message", {"type": "object"}),
    "/streaming/openapi.json": _document("This document", {"type": "object"}),
    "/streaming/asyncapi.json": _document("AsyncAPI of the WebSocket", {"type": "object"}),
}

# Shared components


def _parameter(where: str, name: str, description: str, schema: Json, **more: object) -> Json:
    required = {"required": True} if where == "path" else {}
    described = {"name": name, "in": where, "description": description, "schema": schema}
    return {**described, **required, **more}


_TOPIC: Final[Json] = {"type": "string", "enum": ["metrics", "alerts", "status"]}
_PARAMETERS: Final = {
    "topic": _parameter("path", "topic", "The topic", _TOPIC),
    "topics": _parameter(
        "query",
        "topics",
        "Which topics, with commas between; all that are switched on if absent.",
        {"type": "array", "items": _TOPIC, "minItems": 1},
        style="form",
        explode=False,
    ),
    "cursor": _parameter(
        "query",
        "cursor",
        "Resume after it; does what Last-Event-ID does, for clients that cannot set headers. What"
        " is no cursor of ours is told as a gap, and no error.",
        {"type": "string"},
    ),
    "Last-Event-ID": _parameter(
        "header",
        "Last-Event-ID",
        "The id of the last event: resume after it. Wins over the cursor.",
        {"type": "string"},
    ),
    "request_id": _parameter(
        "path", "request_id", "The answer", _ref("schemas", "RequestId")
    ),
    "after": _parameter(
        "query",
        "after",
        "The last sequence_id seen, 0 for from the start; a cursor wins over it.",
        {"type": "integer", "minimum": 0, "maximum": 10**18 - 1, "default": 0},
    ),
    "Idempotency-Key": _parameter(
        "header",
        "Idempotency-Key",
        "The answer's request_id; wins over the body's.",
        _ref("schemas", "RequestId"),
    ),
    "file": _parameter(
        "path", "file", "Its name", {"type": "string", "pattern": "^[a-z_]{1,64}\\.[a-z]{2,4}$"}
    ),
}
_SECURITY: Final[Json] = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, where some are configured. The word beside it is the scope"
        " that it needs: chat, watch, alerts or admin. On a WebSocket also as the subprotocol"
        " streaming-api.bearer.BASE64URL_OF_THE_KEY.",
    },
    "ticket": {
        "type": "apiKey",
        "in": "query",
        "name": "ticket",
        "description": "A one-use ticket of POST /streaming/tickets, good for 30 seconds.",
    },
}


def openapi(version: str, schemas: Json) -> Json:
    """The document.

    Args:
        version: of this server.
        schemas: what ``#/components/schemas/...`` refers to.
    """
    return {
        "openapi": "3.1.0",
        "info": {"title": "streaming-api", "version": version, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "paths": {**_STREAMS, **_ANSWERS, **_OPERATIONS, **_REST},
        "components": {
            "schemas": schemas,
            "parameters": _PARAMETERS,
            "securitySchemes": _SECURITY,
            "responses": {
                name: _reply(description, _json("Error"), headers)
                for name, description, headers in _ERRORS.values()
            },
        },
    }
