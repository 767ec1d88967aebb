"""What the APIs served here have and this server has not: each path in words of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_RELAYED: Final = "where the gateway has them, monitoring.relay_paths can pass them on"
_SHARED: Final = (
    f"{_RELAYED}, best with forward_authorization: under one key all clients share what is there"
)
_PATHS: Final[Mapping[str, str]] = {
    "responses/([^/]+/)?compact": (
        "Responses are not compacted here: chat completions, which answer, cannot do it."
        " Send a shorter input."
    ),
    "responses/input_tokens": (
        "Tokens are not counted here before a response; its usage says them. POST /tokenize is"
        " passed on to a gateway that can count."
    ),
    "chat/completions/[^/]+/messages": "The messages of a chat completion are not kept here.",
    "conversations(/.*)?": (
        "There are no conversations here: previous_response_id goes on from a response."
    ),
    "messages/batches(/.*)?": f"Batches are not served here; {_SHARED}.",
    "(batches|containers|files|uploads|vector_stores)(/.*)?": (
        f"Files and batches are not served here; {_SHARED}."
    ),
    "(assistants|threads)(/.*)?": (
        "The Assistants API is not served here; OpenAI has replaced it by POST /v1/responses."
    ),
    "realtime(/.*)?": (
        "The Realtime API is not served here; for text, /v1/responses speaks WebSocket, too."
    ),
    "(evals|fine_tuning|graders|skills|videos)(/.*)?": f"These are not served here; {_RELAYED}.",
}
_METHODS: Final[Mapping[str, str]] = {
    "GET /v1/chat/completions": (
        "Chat completions are not listed here. GET /v1/chat/completions/{request_id} goes on with"
        " a streamed one, by its X-Request-Id."
    ),
    "POST /v1/chat/completions/[^/]+": "Chat completions cannot be changed here afterwards.",
    "DELETE /v1/models/.+": "The models are the gateway's and cannot be deleted here.",
}


def why_no_path(path: str) -> str | None:
    """Return why there is nothing at a path of one of the APIs, and what is there in its place."""
    return _why({f"/v1/{pattern}": why for pattern, why in _PATHS.items()}, path)


def why_no_method(method: str, path: str) -> str | None:
    """Return why a path does not take a method that it has in one of the APIs."""
    return _why(_METHODS, f"{method} {path}")


def _why(table: Mapping[str, str], asked: str) -> str | None:
    found = (why for pattern, why in table.items() if re.fullmatch(pattern, asked.rstrip("/")))
    return next(found, None)
