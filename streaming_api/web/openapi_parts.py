"""The parts that OpenAPI's operations are made of: errors, parameters, credentials. Data only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

Json = Mapping[str, object]

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
    413: ("TooLarge", "The body is above service.body_size_limit.", {}),
    422: ("Unprocessable", "The Idempotency-Key stands for another question.", {}),
    426: ("UpgradeRequired", "This path speaks WebSocket, version 13.", _UPGRADE),
    429: ("TooMany", "A limit of this client: too fast, or too much at once.", _RETRY_AFTER),
    500: ("Internal", "The server failed; the operator finds the reason in its log.", {}),
    502: ("UpstreamError", "The model server cannot be reached or does not make sense.", {}),
    503: ("Unavailable", "A limit of the whole server, or it is stopping.", _RETRY_AFTER),
}
_ALWAYS: Final = (403, 500)
OPENING: Final = (429, 503)  # admission of one more connection

# Parts


def ref(kind: str, name: str) -> Json:
    """A reference to a shared component."""
    return {"$ref": f"#/components/{kind}/{name}"}


def json_of(schema: str) -> Json:
    """JSON content of a shared schema."""
    return {"application/json": {"schema": ref("schemas", schema)}}


def reply(description: str, content: Json | None = None, headers: Json | None = None) -> Json:
    """A response."""
    made: dict[str, object] = {"description": description}
    if headers:
        made["headers"] = headers
    if content:
        made["content"] = content
    return made


def operation(
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
        summary: what it does.
        replies: by status.
        errors: statuses of `_ERRORS` besides those that any operation may have.
        tag: the group that it belongs to.
        scope: what a key must have; "" for any key, None for everybody.
        parameters: names of shared parameters.
        body: the schema of the request's JSON.
    """
    statuses = {*errors, *_ALWAYS} if scope is None else {*errors, *_ALWAYS, 401}
    responses: dict[int | str, Json] = {
        status: ref("responses", _ERRORS[status][0]) for status in statuses
    }
    responses.update(replies)
    made: dict[str, object] = {
        "summary": summary,
        "tags": [tag],
        "responses": {str(status): responses[status] for status in sorted(responses, key=str)},
    }
    if scope is not None:
        roles = [scope] if scope else []
        made["security"] = [{"key": roles}, {"ticket": roles}, {}]
    if parameters:
        made["parameters"] = [ref("parameters", name) for name in parameters]
    if body is not None:
        made["requestBody"] = {"required": True, "content": json_of(body)}
    return made


_REFUSAL: Final = reply("The model server's own refusal, as it is", json_of("Error"))
UPSTREAM: Final[Mapping[int | str, Json]] = {"4XX": _REFUSAL, "5XX": _REFUSAL}

# Shared components


def _parameter(where: str, name: str, description: str, schema: Json, **more: object) -> Json:
    required = {"required": True} if where == "path" else {}
    described = {"name": name, "in": where, "description": description, "schema": schema}
    return {**described, **required, **more}


_TOPIC: Final[Json] = {"type": "string", "enum": ["metrics", "alerts", "status", "history"]}
PARAMETERS: Final = {
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
    "request_id": _parameter("path", "request_id", "The answer", ref("schemas", "RequestId")),
    "after": _parameter(
        "query",
        "after",
        "The last sequence_id seen, 0 for from the start; a cursor wins over it.",
        {"type": "integer", "minimum": 0, "maximum": 10**18 - 1, "default": 0},
    ),
    "since": _parameter(
        "query",
        "since",
        "Only what is after this time, in seconds since 1970; 0 for all that is kept.",
        {"type": "number", "default": 0},
    ),
    "Idempotency-Key": _parameter(
        "header",
        "Idempotency-Key",
        "The same for all attempts at one question: the answer is joined or replayed, and asked for"
        " again if it failed. May be quoted.",
        {"type": "string", "minLength": 1, "maxLength": 255},
    ),
    "model": _parameter("path", "model", "Its name, which may have slashes", {"type": "string"}),
    "rest": _parameter("path", "rest", "Any rest of the path", {"type": "string"}),
    "chat": _parameter("path", "id", "The id of the chat", {"type": "string"}),
    "id": _parameter("path", "id", "The response", {"type": "string", "pattern": "^resp_"}),
    "response_id": _parameter(
        "query", "response_id", "Go on with this response", {"type": "string", "pattern": "^resp_"}
    ),
    "stream": _parameter("query", "stream", "Whether its events are wanted", {"type": "boolean"}),
    "starting_after": _parameter(
        "query",
        "starting_after",
        "The sequence_number of the last event seen.",
        {"type": "integer", "minimum": 0},
    ),
    "limit": _parameter(
        "query", "limit", "Items a page", {"type": "integer", "minimum": 1, "maximum": 100}
    ),
    "order": _parameter("query", "order", "desc if absent", {"enum": ["asc", "desc"]}),
    "after_item": _parameter("query", "after", "The last item seen", {"type": "string"}),
    "edition": _parameter(
        "path",
        "edition",
        "Names what the page's files are now; under another edition the file may not be cached.",
        {"type": "string", "pattern": "^[0-9a-f]{16}$"},
        example="0123456789abcdef",
    ),
    "file": _parameter(
        "path",
        "file",
        "Its name",
        {"type": "string", "pattern": "^[a-z_]{1,64}\\.[a-z]{2,4}$"},
        example="main.js",
    ),
}
SECURITY: Final[Json] = {
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


def error_responses() -> Json:
    """The shared responses that the errors of an `operation` refer to."""
    return {
        name: reply(description, json_of("Error"), headers)
        for name, description, headers in _ERRORS.values()
    }
