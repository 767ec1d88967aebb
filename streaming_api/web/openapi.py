"""OpenAPI 3.1 of every HTTP endpoint. Data only: knows no aiohttp and no handler.

What is said here is what the handlers do, and `tests/unit/test_contract.py` holds it against the
application's own routes and replies. What the guard (`streaming_api.web.guard`) may answer before
any handler, `operation` adds by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streaming_api.web.openapi_faces import FACES
from streaming_api.web.openapi_parts import (
    OPENING,
    PARAMETERS,
    SECURITY,
    Json,
    error_responses,
    json_of,
    operation,
    ref,
    reply,
)

_DESCRIPTION: Final = """\
LLM answers, metrics, alerts and status, streamed. The messages on event streams are described by
the schema Message, and the WebSocket by AsyncAPI at /streaming/asyncapi.json.

Where GET is described, HEAD is answered, too. Another method gets 405 with Allow, another path 404,
both with an Error; what is not HTTP/1.1 gets 400 and the connection is closed. Keys
are asked for only where the operator has configured some: without, whoever reaches the port has
every scope."""

_EVENTS: Final = reply(
    "Server-Sent Events, each as its schema says. First a retry: line; a comment after silence. An"
    " answer's stream ends with its end message, a topic's goes on.",
    {
        "text/event-stream": {
            "schema": ref("schemas", "Event"),
        }
    },
    {
        "Cache-Control": {"schema": {"type": "string"}},
        "X-Accel-Buffering": {"schema": {"type": "string"}},
        "Vary": {"schema": {"type": "string"}},
        "Content-Encoding": {
            "description": "gzip, where Accept-Encoding allows it and it is switched on.",
            "schema": {"type": "string", "const": "gzip"},
        },
    },
)
_UNCHANGED: Final = reply("The ETag of If-None-Match is still good.")


def _document(title: str, media_schema: Json) -> Json:
    """One of the machine-readable contracts."""
    etag = {"ETag": {"required": True, "schema": {"type": "string"}}}
    whole = reply(title, {"application/json": {"schema": media_schema}}, etag)
    return {"get": operation(title, {200: whole, 304: _UNCHANGED}, tag="contract")}


def _socket(summary: str) -> Json:
    return {
        "get": operation(
            summary,
            {
                101: reply(
                    "After a handshake (RFC 6455, section 4.1) the connection speaks WebSocket, as"
                    " /streaming/asyncapi.json says. Without one: 426."
                )
            },
            *(400, 404, 426, *OPENING),
            tag="websocket",
            scope="",
        )
    }


# Paths

_STREAMS: Final[Json] = {
    "/streaming/websocket": _socket("Answers and topics on one socket"),
    "/streaming/websocket/chat": _socket("Answers alone"),
    "/streaming/sse": {
        "get": operation(
            "Watch several topics",
            {200: _EVENTS},
            *(400, 404, *OPENING),
            tag="event streams",
            scope="watch",
            parameters=("topics", "cursor", "Last-Event-ID"),
        )
    },
    "/streaming/sse/{topic}": {
        "get": operation(
            "Watch one topic",
            {200: _EVENTS},
            *(404, *OPENING),
            tag="event streams",
            scope="watch",
            parameters=("topic", "cursor", "Last-Event-ID"),
        )
    },
}
_ANSWERS: Final[Json] = {
    "/streaming/sse/chat": {
        "post": operation(
            "Start an answer, or attach to it, and watch it",
            {200: _EVENTS},
            *(400, 404, 413, 422, *OPENING),
            tag="answers",
            scope="chat",
            parameters=("Idempotency-Key",),
            body="ChatRequest",
        )
    },
    "/streaming/sse/chat/{request_id}": {
        "get": operation(
            "Watch an answer, or resume it",
            {200: _EVENTS, 204: reply("The answer has ended and all of it was seen.")},
            *(400, 404, 410, *OPENING),
            tag="answers",
            scope="chat",
            parameters=("request_id", "after", "cursor", "Last-Event-ID"),
        )
    },
    "/streaming/chat/{request_id}": {
        "delete": operation(
            "Cancel an answer",
            {204: reply("It has ended, now or before.")},
            *(400, 404, 410),
            tag="answers",
            scope="chat",
            parameters=("request_id",),
        )
    },
}
_OPERATIONS: Final[Json] = {
    "/streaming/alerts": {
        "post": operation(
            "Alertmanager's webhook",
            {200: reply("The alerts are on the topic.", json_of("Accepted"))},
            *(400, 404, 413),
            tag="operations",
            scope="alerts",
            body="AlertmanagerWebhook",
        )
    },
    "/streaming/tickets": {
        "post": operation(
            "A one-use ticket, for a client that cannot send headers",
            {201: reply("The ticket", json_of("Ticket"))},
            tag="operations",
            scope="",
        )
    },
    "/streaming/connections": {
        "get": operation(
            "Who is connected: rows for admin, counts alone (rows=0) for watch as well",
            {200: reply("Counts, limits and a row per connection", json_of("Connections"))},
            tag="operations",
            scope="",
        )
    },
    "/streaming/status": {
        "get": operation(
            "Capabilities, limits, health of the parts",
            {200: reply("The status", json_of("Status"))},
            tag="operations",
            scope="watch",
        )
    },
    "/streaming/metrics": {
        "get": operation(
            "The figures of /metrics as JSON, with shares and percentiles",
            {200: reply("The figures", json_of("Figures"))},
            tag="operations",
            scope="watch",
        )
    },
    "/streaming/history": {
        "get": operation(
            "The last hour of this server's figures, by the second",
            {200: reply("The history", json_of("History"))},
            *(400, 404),
            tag="operations",
            scope="watch",
            parameters=("since",),
        )
    },
    "/streaming/snapshot": {
        "get": operation(
            "The status, and the snapshots of the topics alerts, status and history",
            {200: reply("Status and messages", json_of("Snapshot"))},
            tag="operations",
            scope="watch",
            parameters=("topics",),
        )
    },
    "/streaming/usage": {
        "get": operation(
            "What each key has used, and what it may",
            {200: reply("The usage", json_of("Usage"))},
            tag="operations",
            scope="admin",
        )
    },
    "/livez": {
        "get": operation(
            "Whether the event loop turns",
            {200: reply("It does.", json_of("Liveness"))},
            tag="operations",
        )
    },
    "/readyz": {
        "get": operation(
            "Whether it may be sent traffic",
            {
                200: reply("It may.", json_of("Readiness")),
                503: reply("It stops, or answers cannot be had yet.", json_of("Readiness")),
            },
            tag="operations",
        )
    },
    "/health": {
        "get": operation(
            "Whether it serves",
            {
                200: reply("It serves.", json_of("Health")),
                503: reply("It is stopping.", json_of("Health")),
            },
            tag="operations",
        )
    },
    "/metrics": {
        "get": operation(
            "Figures for Prometheus",
            {
                200: reply(
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
_STATIC: Final[Mapping[int | str, Json]] = {
    200: reply("The file", {"*/*": {}}),
    206: reply("The Range of it that was asked for", {"*/*": {}}),
    304: _UNCHANGED,
    404: reply("No such file", {"application/octet-stream": {}, **json_of("Error")}),
    412: reply("If-Match or If-Unmodified-Since does not hold."),
    416: reply("No such Range in this file", {"application/octet-stream": {}}),
}
_REST: Final[Json] = {
    "/": {
        "get": operation(
            "The live page",
            {200: reply("HTML", {"text/html": {"schema": {"type": "string"}}})},
            tag="page",
        )
    },
    "/static/{file}": {
        "get": operation(
            "What the page is made of",
            _STATIC,
            tag="page",
            parameters=("file",),
        )
    },
    "/static/{edition}/{file}": {
        "get": operation(
            "The same, for ever if this is its edition",
            _STATIC,
            tag="page",
            parameters=("edition", "file"),
        )
    },
    "/streaming/schema": _document("JSON Schema of a message", {"type": "object"}),
    "/streaming/openapi.json": _document("This document", {"type": "object"}),
    "/streaming/asyncapi.json": _document("AsyncAPI of the WebSocket", {"type": "object"}),
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
        "paths": {**_STREAMS, **_ANSWERS, **FACES, **_OPERATIONS, **_REST},
        "components": {
            "schemas": schemas,
            "parameters": PARAMETERS,
            "securitySchemes": SECURITY,
            "responses": error_responses(),
        },
    }
