"""What each key has used, its limits, and tickets in its place."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aiohttp import web

from streaming_api.config import ApiKey
from streaming_api.ops.context import CONTEXT, client_of
from streaming_api.telemetry.answer_figures import KeyUsage
from streaming_api.web.guard import ANY, scope
from streaming_api.web.json_reply import json_reply
from streaming_api.web.tickets import issue

if TYPE_CHECKING:
    from streaming_api.ops.context import Context


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
    return json_reply({"since": since, "keys": rows})


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


@scope(ANY)
async def ticket(request: web.Request) -> web.Response:
    """POST /streaming/tickets: a one-use ticket for a client that cannot send headers."""
    issued = await issue(request.app[CONTEXT], client_of(request))
    return json_reply({"ticket": issued, "expires_in_seconds": 30}, status=201)
