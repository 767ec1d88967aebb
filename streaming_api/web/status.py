"""How this service is: health, readiness, status, and what the page is shown first."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from streaming_api import __version__
from streaming_api.build import build
from streaming_api.errors import BadRequest
from streaming_api.ops.context import CONTEXT, client_of
from streaming_api.web.figures import running_answers, whole
from streaming_api.web.guard import scope
from streaming_api.web.json_reply import json_bytes_reply, json_reply
from streaming_api.wire.messages import timestamp

if TYPE_CHECKING:
    from streaming_api.ops.context import Context


async def livez(request: web.Request) -> web.Response:  # noqa: ARG001 (a handler's signature)
    """GET /livez: 200, which proves that the event loop turns."""
    return json_reply({"status": "alive"})


async def readyz(request: web.Request) -> web.Response:
    """GET /readyz: 200 if this process may be sent traffic, 503 with the reasons if not."""
    reasons = request.app[CONTEXT].readiness.reasons()
    ready = {"status": "not ready" if reasons else "ready", "reasons": reasons}
    return json_reply(ready, status=503 if reasons else 200)


async def health(request: web.Request) -> web.Response:
    """GET /health: 200 healthy, 503 draining."""
    context = request.app[CONTEXT]
    draining = context.manager.leaving
    return json_reply(
        {
            "status": "draining" if draining else "healthy",
            "service": context.config.name,
            "websocket_enabled": context.config.websocket_enabled,
            "sse_enabled": context.config.sse_enabled,
            "timestamp": timestamp().decode(),
        },
        status=503 if draining else 200,
    )


@scope("watch")
async def status(request: web.Request) -> web.Response:
    """GET /streaming/status: capabilities, limits, health of upstream and sources."""
    context = request.app[CONTEXT]
    answers = await whole(context, "answers", running_answers(context))
    return json_reply({**_status(request), "answers": answers})


def _status(request: web.Request) -> dict[str, object]:
    context = request.app[CONTEXT]
    config = context.config
    model = context.upstream.model
    return {
        "service": config.name,
        "version": __version__,
        "build": build(),
        "state": "draining" if context.manager.leaving else "serving",
        "started_at": datetime.fromtimestamp(context.started, UTC).isoformat(),
        "uptime_seconds": round(time.monotonic() - context.began, 3),
        "access": "open" if context.access.open else "keys",
        "scopes": sorted(client_of(request).scopes),
        "capabilities": {
            "chat": config.streaming_chat_enabled,
            **context.topics.capabilities(),
            "websocket": config.websocket_enabled,
            "sse": config.sse_enabled,
            "compression": config.compression_enabled,
        },
        "limits": {
            "max_connections": config.max_connections,
            "sse_max_connections": config.sse_max_connections,
            "max_connections_per_ip": config.max_connections_per_ip,
            "message_size_limit": config.message_size_limit,
            "body_size_limit": config.body_size_limit,
            "pool_size": config.pool_size,
            "max_queued": config.max_queued,
            "memory_gb": config.memory_gb,
            "buffer_size": config.buffer_size,
            "stall_timeout": config.stall_timeout,
            "resume_grace": config.resume_grace,
        },
        "tls": _tls(context),
        "model": None
        if model is None
        else {
            "demonstration": config.embedded_model == "auto",
            "name": model.model_name,
            "state": model.state,
            "reason": model.reason,
        },
        "components": context.topics.components(),
        "answers": running_answers(context),
        "memory": {
            "budget_bytes": context.manager.budget.limit,
            "held_bytes": context.manager.budget.held(),
        },
    }


def _tls(context: Context) -> dict[str, object] | None:
    certificate = context.certificate
    if certificate is None:
        return None
    return {
        "expires_at": certificate.not_after.isoformat(),
        "days_left": round(certificate.days_left, 2),
        "warning": certificate.warning(),
    }


@scope("watch")
async def history(request: web.Request) -> web.Response:
    """GET /streaming/history: the last hour, second by second, from after ``?since=`` on."""
    topics = request.app[CONTEXT].topics
    topics.require(topics.history.name)
    try:
        since = float(request.query.get("since", "0"))
    except ValueError:
        since = math.nan
    if math.isnan(since):
        message = "since must be a time in seconds since 1970, 0 for everything that is kept."
        raise BadRequest(message, "invalid_value", param="since")
    response = json_bytes_reply(topics.history.since(since))
    response.enable_compression()
    return response


@scope("watch")
async def snapshot(request: web.Request) -> web.Response:
    """GET /streaming/snapshot: the status, and what a new viewer of the page's topics is shown."""
    asked = request.query.get("topics", "alerts,status,history").split(",")
    response = json_bytes_reply(snapshot_of(request, asked))
    response.enable_compression()
    return response


def snapshot_of(request: web.Request, names: Iterable[str]) -> bytes:
    """Return the JSON ``{status, messages}``: the snapshot of each of these topics that is on."""
    topics = request.app[CONTEXT].topics
    messages = (topics.state(name) for name in dict.fromkeys(names))
    status = orjson.dumps(_status(request))
    return b'{"status":%b,"messages":[%b]}' % (status, b",".join(filter(None, messages)))
