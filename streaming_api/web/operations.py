"""Operations: health, status, figures, connections, the scrape, Alertmanager's webhook."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import orjson
from aiohttp import hdrs, web
from prometheus_async.aio.web import server_stats
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder

from streaming_api import __version__
from streaming_api.access import audit
from streaming_api.build import build
from streaming_api.config import ApiKey
from streaming_api.connections.endings import KINDS
from streaming_api.errors import BadRequest, NotFound
from streaming_api.ops import together
from streaming_api.ops.context import CONTEXT, client_of
from streaming_api.ops.peers import Own
from streaming_api.ops.together import Figures
from streaming_api.sources.alertmanager import Webhook, WebhookError, parse_webhook
from streaming_api.telemetry.answer_figures import KeyUsage
from streaming_api.web.body import raw_body
from streaming_api.web.guard import ANY, scope
from streaming_api.web.tickets import issue
from streaming_api.wire.messages import timestamp

if TYPE_CHECKING:
    from streaming_api.ops.context import Context

_TARGETS: Final = {"websocket": 95, "sse": 90}
_STABILITY_TARGET: Final = 99
_AT_ONCE: Final = 64 * 2**10
"""Bytes of a webhook above which it is not parsed in the event loop."""
_STORMS: Final = asyncio.Semaphore(1)
_NO_TRAFFIC: Final = "nothing has been delivered in the last 5 minutes"


def _json(value: object, status: int = 200) -> web.Response:
    return _json_bytes(orjson.dumps(value), status)


def _json_bytes(body: bytes, status: int = 200) -> web.Response:
    return web.Response(
        body=body,
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


async def livez(request: web.Request) -> web.Response:  # noqa: ARG001 (a handler's signature)
    """GET /livez: 200, which proves that the event loop turns."""
    return _json({"status": "alive"})


async def readyz(request: web.Request) -> web.Response:
    """GET /readyz: 200 if this process may be sent traffic, 503 with the reasons if not."""
    reasons = request.app[CONTEXT].readiness.reasons()
    ready = {"status": "not ready" if reasons else "ready", "reasons": reasons}
    return _json(ready, status=503 if reasons else 200)


async def health(request: web.Request) -> web.Response:
    """GET /health: 200 healthy, 503 draining."""
    context = request.app[CONTEXT]
    draining = context.manager.leaving
    return _json(
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
    answers = await _whole(context, "answers", _answers(context))
    return _json({**_status(request), "answers": answers})


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
        "answers": _answers(context),
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


def _answers(context: Context) -> dict[str, object]:
    running = len(context.answers.running)
    return {"running": running - context.answers.queued, "queued": context.answers.queued}


@scope(ANY)
async def connections(request: web.Request) -> web.Response:
    """GET /streaming/connections: counts, limits; a row per connection for ``admin``.

    With ``?rows=0`` there are no rows, which is all that ``watch`` may see.
    """
    context = request.app[CONTEXT]
    if request.query.get("rows") == "0":
        client_of(request).require("watch", "admin")
        return _json(await _whole(context, "counts", _counts(context)))
    client_of(request).require("admin")
    counts = _counts(context)
    if context.peers is None:
        return _json({**counts, "connections": _rows(context)})
    others = await context.peers.ask("rows")
    rows = {context.peers.name: _rows(context)} | {n: orjson.loads(r) for n, r in others.items()}
    connections = [{"worker": worker, **row} for worker, part in rows.items() for row in part]
    return _json({**await _whole(context, "counts", counts), "connections": connections})


async def _whole(context: Context, what: str, mine: Figures) -> Figures:
    """Return the figures of all workers together; for a single process, its own."""
    if context.peers is None:
        return mine
    others = await context.peers.ask(what)
    return together.figures(
        {context.peers.name: mine} | {name: orjson.loads(part) for name, part in others.items()}
    )


def own_figures(context: Context) -> Own:
    """Return the figures that this worker reports to the others."""
    return {
        "metrics": lambda accept: choose_encoder(accept)[0](REGISTRY),
        "figures": lambda _: orjson.dumps(_figures(context)),
        "counts": lambda _: orjson.dumps(_counts(context)),
        "rows": lambda _: orjson.dumps(_rows(context)),
        "answers": lambda _: orjson.dumps(_answers(context)),
    }


def _counts(context: Context) -> Figures:
    manager = context.manager
    return {kind: {"open": manager.open[kind], "limit": manager.limits[kind]} for kind in KINDS}


def _rows(context: Context) -> list[dict[str, object]]:
    now = time.monotonic()
    rows: list[dict[str, object]] = []
    for connection in context.manager.present():
        messages, size = connection.sent()
        topics = {name for viewer in connection.viewers for name in context.topics.watched(viewer)}
        rows.append(
            {
                "id": connection.number,
                "kind": connection.kind,
                "path": connection.path,
                "age_seconds": round(now - connection.opened, 3),
                "idle_seconds": round(now - connection.last_activity, 3),
                "lag_messages": connection.lag,
                "unsent_bytes": connection.unsent,
                "sent_messages": messages,
                "sent_bytes": size,
                "answers": sum(not context.topics.watched(v) for v in connection.viewers),
                "topics": sorted(topics),
            }
        )
    return rows


@scope("watch")
async def figures(request: web.Request) -> web.Response:
    """GET /streaming/metrics: the figures of /metrics as JSON, with shares and percentiles."""
    context = request.app[CONTEXT]
    return _json(await _whole(context, "figures", _figures(context)))


def _figures(context: Context) -> Figures:
    telemetry = context.telemetry
    stability = telemetry.stability()
    used = context.process.fetch()
    return {
        **{
            f"{kind}_performance": _share(telemetry.performance(kind), target)
            for kind, target in _TARGETS.items()
        },
        "connection_stability": _share(stability, _STABILITY_TARGET),
        "delivery_latency_seconds": {
            kind: {
                "p50": histogram.quantile(0.5),
                "p90": histogram.quantile(0.9),
                "p99": histogram.quantile(0.99),
                "count": sum(histogram.counts),
            }
            for kind, histogram in telemetry.latency.items()
        },
        "tokens_per_second": round(telemetry.tokens_per_second(), 3),
        "answers": {**_answers(context), "by_outcome": dict(telemetry.outcomes)},
        "messages": context.messages(),
        "lagging_viewers": sum(c.paused for c in context.manager.present()),
        "unsent_bytes": sum(c.unsent for c in context.manager.present()),
        "event_loop_lag_seconds": round(telemetry.loop_lag, 6),
        "process": {
            "resident_memory_bytes": used.resident_memory_bytes,
            "cpu_seconds": used.cpu_seconds,
            "open_fds": used.open_fds,
            "max_fds": used.max_fds,
        },
    }


def _share(percent: float | None, target: float) -> dict[str, object]:
    return {
        "percent": None if percent is None else round(percent, 3),
        "target": target,
        "reason": _NO_TRAFFIC if percent is None else None,
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
    response = _json_bytes(topics.history.since(since))
    response.enable_compression()
    return response


@scope("watch")
async def snapshot(request: web.Request) -> web.Response:
    """GET /streaming/snapshot: the status, and what a new viewer of the page's topics is shown."""
    asked = request.query.get("topics", "alerts,status,history").split(",")
    response = _json_bytes(snapshot_of(request, asked))
    response.enable_compression()
    return response


def snapshot_of(request: web.Request, names: Iterable[str]) -> bytes:
    """Return the JSON ``{status, messages}``: the snapshot of each of these topics that is on."""
    topics = request.app[CONTEXT].topics
    messages = (topics.state(name) for name in dict.fromkeys(names))
    status = orjson.dumps(_status(request))
    return b'{"status":%b,"messages":[%b]}' % (status, b",".join(filter(None, messages)))


@scope("watch")
async def scrape(request: web.Request) -> web.Response:
    """GET /metrics: Prometheus' text format, or OpenMetrics if asked for."""
    peers = request.app[CONTEXT].peers
    if peers is None:
        return await server_stats(request)
    accept = request.headers.get(hdrs.ACCEPT, "")
    encode, content_type = choose_encoder(accept)
    parts = {peers.name: encode(REGISTRY)} | await peers.ask("metrics", accept)
    whole = together.expositions(dict(sorted(parts.items())))
    return web.Response(body=whole, headers={hdrs.CONTENT_TYPE: content_type})


@scope("alerts")
async def alertmanager_webhook(request: web.Request) -> web.Response:
    """POST /streaming/alerts: Alertmanager's webhook, version 4."""
    context = request.app[CONTEXT]
    if not context.config.streaming_alerts_enabled:
        message = "Alerts are switched off here (streaming.alerts_enabled)."
        raise NotFound(message, "alerts_disabled")
    limit = context.config.webhook_size_limit
    body = await raw_body(request, "monitoring.webhook_size_limit", limit)
    try:
        posted = await _read_webhook(body)
    except WebhookError as error:
        raise BadRequest(str(error), "invalid_webhook") from None
    refused = 0
    if context.cluster is None:
        refused = take_webhook(context, posted)
    else:
        await context.cluster.share_webhook(body)  # this process then gets it as all do
    audit.alerts_posted(client_of(request), len(posted.alerts))
    missing = posted.truncated + posted.unread
    reply: dict[str, object] = {"accepted": len(posted.alerts)}
    if missing + refused:
        reply["left_out"] = missing + refused
    if posted.problems:
        reply["problems"] = posted.problems
    return _json(reply)


def take_webhook(context: Context, posted: Webhook) -> int:
    """Show the webhook's alerts; return how many were refused for want of room."""
    missing = posted.truncated + posted.unread
    refused = context.topics.alerts.webhook(posted.alerts, posted.group, missing)
    _report_left_out(context, posted)
    return refused


@scope("admin")
async def usage(request: web.Request) -> web.Response:
    """GET /streaming/usage: what each key has used, and its limits."""
    context = request.app[CONTEXT]
    since, used = await _used(context)
    running = context.answers.running_by_key()
    remote = context.answers.remote
    limits = {key.name: key for key in context.config.api_keys}
    names = sorted({*limits, *used, *running}) or [""]
    rows = [
        {
            "key": name or None,
            "running": running[name] + (0 if remote is None else remote.running_elsewhere(name)),
            **(used.get(name) or KeyUsage().as_json()),
            "limits": _own_limits(limits.get(name)),
        }
        for name in names
    ]
    return _json({"since": since, "keys": rows})


async def _used(context: Context) -> tuple[str, Mapping[str, dict[str, object]]]:
    """Return what each key has used in the whole service, and since when."""
    if context.cluster is not None:
        await context.cluster.used()
        return context.cluster.usage.since, context.cluster.usage.as_json()
    by_key = context.telemetry.answers.by_key
    since = datetime.fromtimestamp(context.started, UTC).isoformat()
    return since, {name: usage.as_json() for name, usage in by_key.items()}


def _own_limits(key: ApiKey | None) -> dict[str, object]:
    if key is None:
        return {}
    limits = {
        "answers": key.answers,
        "tokens_per_minute": key.tokens_per_minute,
        "tokens_per_day": key.tokens_per_day,
        "models": sorted(key.models),
        "expires": key.expires,
    }
    return {name: value for name, value in limits.items() if value}


async def _read_webhook(body: bytes) -> Webhook:
    """Parse a large webhook off the event loop, one at a time: it takes many times its size."""
    if len(body) <= _AT_ONCE:
        return parse_webhook(body)
    async with _STORMS:
        return await asyncio.to_thread(parse_webhook, body)


def _report_left_out(context: Context, posted: Webhook) -> None:
    """Report in the status which of the webhook's alerts are not shown, as long as that is so."""
    status = context.topics.status
    count = context.topics.alerts.left_out
    if count:
        reason = f"{count} alerts are left out: Alertmanager cut them (truncatedAlerts), "
        reason += "or there is no room for them, or they cannot be read."
        if posted.problems:
            reason += f" The newest: {posted.problems[0]}."
        status.set("webhook", "up", reason)
    elif "webhook" in status.states():
        status.set("webhook", "up")


@scope(ANY)
async def ticket(request: web.Request) -> web.Response:
    """POST /streaming/tickets: a one-use ticket for a client that cannot send headers."""
    issued = await issue(request.app[CONTEXT], client_of(request))
    return _json({"ticket": issued, "expires_in_seconds": 30}, status=201)
