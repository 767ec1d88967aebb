"""The composition root: what is built in what order, which routes there are, start and end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp_jinja2
import jinja2
from aiohttp import web

from streaming_api.access.policy import Policy
from streaming_api.answers.answers import Answers
from streaming_api.answers.idempotency import LocalBindings, Retries
from streaming_api.background import Background
from streaming_api.config import StreamingConfig
from streaming_api.connections.endings import CloseReason
from streaming_api.connections.manager import ConnectionManager
from streaming_api.engine.budget import Budget
from streaming_api.engine.channel import Channel
from streaming_api.faces.ui_chats import UiChats
from streaming_api.ops.context import CONTEXT, Context
from streaming_api.ops.monitor import Monitor
from streaming_api.ops.peers import Peers
from streaming_api.ops.prometheus import publish
from streaming_api.ops.readiness import Readiness
from streaming_api.ops.tracing import tracing
from streaming_api.serving.tls import Certificate
from streaming_api.serving.workers import plan
from streaming_api.sources.alertmanager import WebhookError, parse_webhook
from streaming_api.telemetry.deliveries import Telemetry
from streaming_api.telemetry.process import Process
from streaming_api.topics import Topics
from streaming_api.upstreams.upstream import Upstream
from streaming_api.web import (
    contract,
    figures,
    headers,
    keys,
    openai,
    page,
    relay,
    responses,
    responses_socket,
    sse,
    status,
    ui_chat,
    webhook,
    websocket,
)
from streaming_api.web.guard import guard
from streaming_api.wire.topics import TOPICS

if TYPE_CHECKING:
    from streaming_api.cluster.cluster import Cluster
    from streaming_api.connections.admission import Admission

BACKGROUND = web.AppKey("background", Background)
logger = logging.getLogger(__name__)

CLUSTER_DRAIN_SECONDS: Final = 2.0
"""Seconds that the store gets to take the ends of the answers."""
CONNECTIONS_DRAIN_SECONDS: Final = 3.0
"""Seconds that clients get to close their connections."""


def make_app(config: StreamingConfig) -> web.Application:
    """Make the whole application; nothing starts before its clean-up contexts are entered.

    Args:
        config: see `streaming_api.config`.
    """
    context = build(config)
    app = web.Application(middlewares=[guard], client_max_size=config.body_size_limit)
    app[CONTEXT] = context
    app[ui_chat.UI_CHATS] = UiChats()
    app[BACKGROUND] = Background(context.telemetry.background_failures)
    aiohttp_jinja2.setup(app, loader=jinja2.FileSystemLoader(_templates()), autoescape=True)
    add_routes(app)
    relay.add_routes(app.router, config.relay_paths)
    app.on_response_prepare.append(headers.add_headers)
    app.on_response_prepare.append(page.add_headers)
    app.cleanup_ctx.append(_running)
    app.on_shutdown.append(_drain)
    return app


def build(config: StreamingConfig) -> Context:
    """Build everything that handlers use, wired together."""
    telemetry = Telemetry()
    process = Process()
    budget = Budget(config.memory_budget)
    manager = ConnectionManager(config, telemetry, process, budget)

    def new_channel(epoch: str) -> Channel:
        return Channel(
            epoch,
            call_later=lambda delay, work: asyncio.get_running_loop().call_later(delay, work),
            flush_interval=config.flush_interval / 1000,
            batch_size=config.batch_size,
            observer=telemetry,
        )

    answers = Answers(config, upstream := Upstream(config), new_channel, telemetry, budget)
    bindings = LocalBindings()
    topics = Topics(
        config,
        new_channel(secrets.token_hex(8)),
        telemetry.background_failures,
        new_channel(secrets.token_hex(8)),
        _name(config) if _is_one_of_several(config) else "",
    )
    access = Policy(config)
    cluster = _cluster(config, answers, access, manager.admission, new_channel, topics, telemetry)
    keyed = bindings if cluster is None else cluster.bindings
    return Context(
        config=config,
        manager=manager,
        answers=answers,
        bindings=bindings,
        retries=Retries(answers, keyed, telemetry.keyed_requests),
        topics=topics,
        cluster=cluster,
        peers=Peers.of_supervisor(config.cluster_name),
        access=access,
        readiness=Readiness(manager, waits=config.streaming_chat_enabled),
        upstream=upstream,
        telemetry=telemetry,
        process=process,
        certificate=_certificate(config),
        started=time.time(),
        began=time.monotonic(),
    )


def _cluster(
    config: StreamingConfig,
    answers: Answers,
    access: Policy,
    admission: Admission,
    new_channel: Callable[[str], Channel],
    topics: Topics,
    telemetry: Telemetry,
) -> Cluster | None:
    """Return this process's cluster, or None; redis is imported only where there is one."""
    if not _is_one_of_several(config):
        return None
    from streaming_api.cluster.cluster import Cluster  # noqa: PLC0415

    failures = telemetry.background_failures
    return Cluster(config, answers, access, admission, new_channel, topics, failures)


def _is_one_of_several(config: StreamingConfig) -> bool:
    return config.cluster_url is not None and plan(config).missing is None


def _name(config: StreamingConfig) -> str:
    """Return what this process is called in figures."""
    return config.cluster_name or f"{socket.gethostname()}-{os.getpid()}"


def _certificate(config: StreamingConfig) -> Certificate | None:
    if config.tls_certificate is None or config.tls_key is None:
        return None
    return Certificate(config.tls_certificate, config.tls_key)


def add_routes(app: web.Application) -> None:
    """Add every route: the whole URL table."""
    router = app.router
    router.add_get("/", page.page)
    router.add_get("/streaming/websocket", websocket.handler(chat_only=False))
    router.add_get("/streaming/websocket/chat", websocket.handler(chat_only=True))
    router.add_get("/streaming/sse", sse.topics_events)
    for topic in TOPICS:  # plain paths: found in one step
        router.add_get(f"/streaming/sse/{topic.name}", sse.topic_events)
    router.add_post("/streaming/sse/chat", sse.start_answer)
    router.add_get("/streaming/sse/chat/{request_id}", sse.watch_answer)
    router.add_delete("/streaming/chat/{request_id}", sse.cancel_answer)
    for prefix in ("/v1", ""):
        router.add_post(f"{prefix}/chat/completions", openai.chat_completions)
        router.add_get(f"{prefix}/models", openai.models)
    router.add_get("/v1/chat/completions/{request_id}", openai.watch_completion)
    router.add_delete("/v1/chat/completions/{request_id}", openai.delete_completion)
    router.add_get("/v1/models/{model:.+}", openai.model)
    router.add_post("/v1/responses", responses.create)
    router.add_get("/v1/responses", responses_socket.socket, allow_head=False)
    router.add_get("/v1/responses/{id}", responses.retrieve)
    router.add_delete("/v1/responses/{id}", responses.delete)
    router.add_post("/v1/responses/{id}/cancel", responses.cancel)
    router.add_get("/v1/responses/{id}/input_items", responses.input_items)
    router.add_post("/api/chat", ui_chat.start)
    router.add_get("/api/chat/{id}/stream", ui_chat.resume)
    router.add_delete("/api/chat/{id}", ui_chat.stop)
    router.add_post("/streaming/alerts", webhook.alertmanager_webhook)
    router.add_post("/streaming/tickets", keys.ticket)
    router.add_get("/streaming/connections", figures.connections)
    router.add_get("/streaming/usage", keys.usage)
    router.add_get("/streaming/status", status.status)
    router.add_get("/streaming/metrics", figures.figures)
    router.add_get("/streaming/history", status.history)
    router.add_get("/streaming/snapshot", status.snapshot)
    router.add_get("/health", status.health)
    router.add_get("/livez", status.livez)
    router.add_get("/readyz", status.readyz)
    router.add_get("/metrics", figures.scrape)
    router.add_get("/streaming/schema", contract.schema)
    router.add_get("/streaming/openapi.json", contract.openapi)
    router.add_get("/streaming/asyncapi.json", contract.asyncapi)
    router.add_get("/static/{file}", page.static)
    router.add_get("/static/{edition}/{file}", page.static)


def _templates() -> Path:
    """Return the templates' directory: beside the code, or at the top level in a checkout."""
    installed = Path(__file__).parent / "templates"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "templates"


# The lifecycle


def _take_webhook(context: Context, body: bytes) -> None:
    """Take a webhook of alerts that another process, or this one, has received."""
    with contextlib.suppress(WebhookError):  # a webhook of a later version
        webhook.take_webhook(context, parse_webhook(body))


async def _running(app: web.Application) -> AsyncIterator[None]:
    """Run background work from before the first request until after the last."""
    context = app[CONTEXT]
    manager = context.manager
    monitor = Monitor(context)
    background = app[BACKGROUND]
    unpublish = publish(context)
    traces = tracing(context.config.name)
    if traces is not None:
        context.telemetry.on_answer.append(traces.ended)
    background.start("heartbeats", manager.keep_heartbeats)
    background.start("stall sweep", manager.keep_sweeping_stalled)
    background.start("memory", lambda: manager.keep_counting_memory(context.answers.read_on))
    background.start("idle sweep", manager.keep_sweeping_idle)
    background.start("answers kept", context.answers.keep_evicting)
    background.start("monitor", monitor.keep_sampling)
    background.start("upstream health", monitor.keep_asking_upstream)
    if context.certificate is not None:
        reloading = context.certificate.keep_reloading
        background.start("TLS certificate", lambda: reloading(context.topics.warn))
    if (missing := plan(context.config).missing) is not None:
        context.topics.own.set("cluster", "absent", missing)
    if context.cluster is None:
        background.start("topics", context.topics.run)
        background.start("history", context.topics.history.keep_sampling)
    else:
        context.cluster.on_webhook = lambda body: _take_webhook(context, body)
        await context.cluster.start(background)
    if context.peers is not None:
        await context.peers.start(figures.own_figures(context))
    try:
        yield
    finally:
        if context.peers is not None:
            await context.peers.stop()
        await background.stop()
        await context.answers.drain(0)
        if context.cluster is not None:
            await context.cluster.stop()
        await context.upstream.stop()
        unpublish()
        if traces is not None:
            await traces.close()
        with contextlib.suppress(OSError):
            context.process.close()


async def leave(app: web.Application) -> None:
    """Begin to stop: report it to health checks while everything is still served."""
    context = app[CONTEXT]
    context.manager.leaving = True
    if context.cluster is not None:
        context.cluster.leave()
    await asyncio.sleep(context.config.drain_delay)


async def _drain(app: web.Application) -> None:
    """Drain: refuse new answers, give running ones their time, then notify all clients.

    In a cluster, clients who come back by themselves are sent to another process at once, if one
    stays; their answers go on here, and the others are shown theirs to the end.
    """
    context = app[CONTEXT]
    context.manager.leaving = context.manager.draining = True
    context.topics.report_draining()
    seconds = context.config.drain_seconds
    if context.cluster is None:
        await context.answers.drain(seconds)
    else:
        context.cluster.topics.leave()
        answers = asyncio.ensure_future(context.answers.drain(seconds))
        if await context.cluster.others_stay():
            _send_elsewhere(context, context.cluster)
        await asyncio.gather(answers, context.cluster.drain(seconds))
        await context.cluster.flush(CLUSTER_DRAIN_SECONDS)
    await context.manager.drain(CONNECTIONS_DRAIN_SECONDS)


def _send_elsewhere(context: Context, cluster: Cluster) -> None:
    """Send clients who come back by themselves to another process, while their answers go on."""
    sent = [connection for connection in context.manager.present() if connection.comes_back]
    cluster.move({viewer.channel for connection in sent for viewer in connection.viewers})
    for connection in sent:
        connection.close(CloseReason.DRAINED)
