"""Alertmanager's webhook."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import web

from streaming_api.access import audit
from streaming_api.errors import BadRequest, NotFound
from streaming_api.ops.context import CONTEXT, client_of
from streaming_api.sources.alertmanager import Webhook, WebhookError, parse_webhook
from streaming_api.web.body import raw_body
from streaming_api.web.guard import scope
from streaming_api.web.json_reply import json_reply

if TYPE_CHECKING:
    from streaming_api.ops.context import Context

_AT_ONCE: Final = 64 * 2**10
"""Bytes of a webhook above which it is not parsed in the event loop."""
_STORMS: Final = asyncio.Semaphore(1)


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
    return json_reply(reply)


def take_webhook(context: Context, posted: Webhook) -> int:
    """Show the webhook's alerts; return how many were refused for want of room."""
    missing = posted.truncated + posted.unread
    refused = context.topics.desk.alerts.webhook(posted.alerts, posted.group, missing)
    _report_left_out(context, posted)
    return refused


async def _read_webhook(body: bytes) -> Webhook:
    """Parse a large webhook off the event loop, one at a time: it takes many times its size."""
    if len(body) <= _AT_ONCE:
        return parse_webhook(body)
    async with _STORMS:
        return await asyncio.to_thread(parse_webhook, body)


def _report_left_out(context: Context, posted: Webhook) -> None:
    """Report in the status which of the webhook's alerts are not shown, as long as that is so."""
    status = context.topics.desk.status
    count = context.topics.desk.alerts.left_out
    if count:
        reason = f"{count} alerts are left out: Alertmanager cut them (truncatedAlerts), "
        reason += "or there is no room for them, or they cannot be read."
        if posted.problems:
            reason += f" The newest: {posted.problems[0]}."
        status.set("webhook", "up", reason)
    elif "webhook" in status.states():
        status.set("webhook", "up")
