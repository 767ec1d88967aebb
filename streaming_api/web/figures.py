"""Figures: of connections, deliveries and answers, of one process or of all workers together."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import orjson
from aiohttp import hdrs, web
from prometheus_async.aio.web import server_stats
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder

from streaming_api.connections.endings import KINDS
from streaming_api.ops import together
from streaming_api.ops.context import CONTEXT, client_of
from streaming_api.ops.peers import Own
from streaming_api.ops.together import Figures
from streaming_api.web.guard import ANY, scope
from streaming_api.web.json_reply import json_reply

if TYPE_CHECKING:
    from streaming_api.ops.context import Context

_TARGETS: Final = {"websocket": 95, "sse": 90}
_STABILITY_TARGET: Final = 99
_NO_TRAFFIC: Final = "nothing has been delivered in the last 5 minutes"


@scope(ANY)
async def connections(request: web.Request) -> web.Response:
    """GET /streaming/connections: counts, limits; a row per connection for ``admin``.

    With ``?rows=0`` there are no rows, which is all that ``watch`` may see.
    """
    context = request.app[CONTEXT]
    if request.query.get("rows") == "0":
        client_of(request).require("watch", "admin")
        return json_reply(await whole(context, "counts", _counts(context)))
    client_of(request).require("admin")
    counts = _counts(context)
    if context.peers is None:
        return json_reply({**counts, "connections": _rows(context)})
    others = await context.peers.ask("rows")
    rows = {context.peers.name: _rows(context)} | {n: orjson.loads(r) for n, r in others.items()}
    connections = [{"worker": worker, **row} for worker, part in rows.items() for row in part]
    return json_reply({**await whole(context, "counts", counts), "connections": connections})


async def whole(context: Context, what: str, mine: Figures) -> Figures:
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
        "answers": lambda _: orjson.dumps(running_answers(context)),
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
    return json_reply(await whole(context, "figures", _figures(context)))


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
        "answers": {**running_answers(context), "by_outcome": dict(telemetry.outcomes)},
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


def running_answers(context: Context) -> dict[str, object]:
    """Return how many answers run here and how many wait for the upstream."""
    running = len(context.answers.running)
    return {"running": running - context.answers.queued, "queued": context.answers.queued}


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
