"""Everything else that the gateway can do: requests passed on as they are, bytes both ways.

RFC 9110, section 7.6: what belongs to one connection stays there. The credential is exchanged as
for answers; cookies, and what a browser says about its page, are not the gateway's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from aiohttp import hdrs, web

from streaming_api.answer_record import PassedOnRecord
from streaming_api.config.schema import RELAY_PATHS
from streaming_api.errors import BadRequest, NotFound
from streaming_api.ops.context import CONTEXT, client_of, route_of
from streaming_api.upstreams.passed_usage import PassedUsage
from streaming_api.upstreams.reply_errors import UpstreamError
from streaming_api.web.body import is_inflated, raw_body
from streaming_api.web.completion import error_of
from streaming_api.web.guard import scope
from streaming_api.web.one_request import OneRequest
from streaming_api.web.takeover import take_slot
from streaming_api.wire.objects import parse_object

if TYPE_CHECKING:
    from streaming_api.access.client import Client
    from streaming_api.ops.context import Context
    from streaming_api.upstreams.http1 import Head
    from streaming_api.upstreams.relay import Relay

logger = logging.getLogger(__name__)

MOST_WHOLE: Final = 256 * 2**10
"""Bytes up to which a request's body is read whole, so that it can be sent again."""
_KEY: Final = "x-api-key"
_HOP_BY_HOP: Final = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization",
        "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
_NOT_TO_UPSTREAM: Final = _HOP_BY_HOP | {
    "authorization", "content-length", "cookie", "expect", "forwarded", "host", "origin", "referer",
    "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", _KEY,
}  # fmt: skip
_NOT_TO_CLIENT: Final = _HOP_BY_HOP | {
    "access-control-allow-credentials", "access-control-allow-headers",
    "access-control-allow-methods", "access-control-allow-origin", "access-control-expose-headers",
    "access-control-max-age", "alt-svc", "content-length", "date", "server", "set-cookie",
    "strict-transport-security", "x-request-id",
}  # fmt: skip
_BODILESS: Final = frozenset({204, 304})
_METHODS: Final = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
"""What is passed on where an operator opens a path; OPTIONS is answered here, as everywhere."""


def add_routes(router: web.UrlDispatcher, paths: tuple[str, ...]) -> None:
    """Add the routes of requests that are passed on.

    Args:
        router: gets the routes, after all others.
        paths: each may end with ``*``, which stands for any rest.
    """
    for path in paths:
        rest = path.endswith("*")
        route = path[:-1] + "{rest:.*}" if rest else path
        for method in [hdrs.METH_POST] if path in RELAY_PATHS else _METHODS:
            router.add_route(method, route, relay)


@scope("chat")
async def relay(request: web.Request) -> web.StreamResponse:
    """Pass a request on, and its response back."""
    context = request.app[CONTEXT]
    context.answers.require()
    client = client_of(request)
    client.take_command()
    path = request.rel_url.raw_path
    if any(unquote(part) in {".", ".."} for part in path.split("/")):
        raise NotFound("There is nothing at this path.", "not_found")
    began = time.monotonic()
    usage = PassedUsage()
    with take_slot(request, "sse"):
        body = await _body(request, client)
        context.answers.check(client, _model(body) if _may_ask_some(client) else None)
        response: web.StreamResponse | None = None
        try:
            with _ended_with_client(request), context.answers.passed_on.running(client.name):
                response = await _queued(context, request, body, usage)
        except UpstreamError as failed:
            raise error_of(failed.error, "error") from None
        finally:
            status = 0 if response is None else response.status
            context.telemetry.relayed[f"{status // 100}xx" if status else "failed"] += 1
            seconds = time.monotonic() - began
            record = PassedOnRecord(
                "" if client.key is None else client.key.name,
                not 200 <= status < 300,
                time.time(),
                *usage.tokens,
            )
            context.telemetry.answers.by_key[record.key].add(record)
            context.answers.passed(record)
            logger.info(
                "relayed %s %s of %s: %s in %.3f s; tokens %d in, %d out",
                request.method, route_of(request), client.address, status or "failed", seconds,
                record.input_tokens, record.output_tokens,
            )  # fmt: skip
    return response


@contextlib.contextmanager
def _ended_with_client(request: web.Request) -> Iterator[None]:
    """Cancel this task when the client sends nothing more, which is how a client leaves."""
    protocol, task = request.protocol, asyncio.current_task()
    assert isinstance(protocol, OneRequest)
    assert task is not None
    if protocol.ended:
        raise ConnectionResetError
    protocol.on_ended = task.cancel
    try:
        yield
    finally:
        protocol.on_ended = None


def _may_ask_some(client: Client) -> bool:
    """Whether a client's key may ask some models only."""
    return client.key is not None and bool(client.key.models)


async def _body(request: web.Request, client: Client) -> bytes | None:
    """Return the body if it is small or has to be looked into; None if it is to be passed on."""
    if not request.can_read_body:
        return b""
    if _may_ask_some(client):
        return await raw_body(request)
    small = (request.content_length or MOST_WHOLE + 1) <= MOST_WHOLE
    return await raw_body(request) if small and not is_inflated(request) else None


def _model(body: bytes | None) -> str | None:
    """Return the model that a body of JSON names."""
    try:
        named = parse_object(body or b"{}").get("model")
    except BadRequest:  # a form, for example
        return None
    return named if isinstance(named, str) else None


async def _queued(
    context: Context, request: web.Request, body: bytes | None, usage: PassedUsage
) -> web.StreamResponse:
    queue = context.answers.queue
    await queue.acquire(lambda _: None)
    try:
        return await _relayed(context, request, body, usage)
    finally:
        queue.release()


async def _relayed(
    context: Context, request: web.Request, body: bytes | None, usage: PassedUsage
) -> web.StreamResponse:
    gateway = await context.upstream.ready()
    headers = _headers_for_upstream(context, request)
    size = request.content_length if body is None else len(body)
    chunked = body is None and (size is None or is_inflated(request))
    if chunked:
        headers.append(("Transfer-Encoding", "chunked"))
    elif body or request.content_length is not None:
        headers.append(("Content-Length", str(size)))
    try:
        exchange = gateway.relay(
            request.method,
            request.rel_url.raw_path,
            request.rel_url.raw_query_string,
            headers,
            body,
        )
    except ValueError as error:
        raise BadRequest(str(error), "invalid_header") from None
    sending: asyncio.Task[None] | None = None
    try:
        await exchange.open()
        if body is None:
            sending = asyncio.ensure_future(_send(exchange, request, chunked=chunked))
        return await _reply(exchange, request, usage)
    except UpstreamError:
        if sending is not None and sending.done():
            sending.result()  # raises what was wrong with the body, if that was why
        raise
    finally:
        if sending is not None:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        exchange.close()


async def _send(exchange: Relay, request: web.Request, *, chunked: bool) -> None:
    """Pass the body on as it arrives, no faster than it is taken."""
    assert isinstance(request.protocol, OneRequest)
    request.protocol.continue_body()
    try:
        async for data in request.content.iter_any():
            await exchange.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
            if is_inflated(request):  # the next piece may be here, and nobody waits for it
                await request.app[CONTEXT].manager.turns.pause()
    except web.RequestPayloadError:
        exchange.give_up()
        raise
    if chunked:
        await exchange.write(b"0\r\n\r\n")
    exchange.end_body()


async def _reply(exchange: Relay, request: web.Request, usage: PassedUsage) -> web.StreamResponse:
    head = await exchange.head()
    response = web.StreamResponse(status=head.status)
    for name, value in _headers_for_client(head):
        response.headers.add(name, value)
    length = head.headers.get("content-length", "")
    if length.isdigit() and head.status not in _BODILESS:
        response.content_length = int(length)
    await response.prepare(request)
    if request.method == hdrs.METH_HEAD:  # the length is that of a body that does not come
        return response
    try:
        while data := await exchange.read():
            usage.feed(data)
            await response.write(data)
    except UpstreamError:
        if request.transport is not None:
            request.transport.abort()  # it was cut off there, so it is cut off here
        raise ConnectionResetError from None
    await response.write_eof()
    return response


def _headers_for_upstream(context: Context, request: web.Request) -> list[tuple[str, str]]:
    named = _named_in_connection(request.headers.get(hdrs.CONNECTION, ""))
    if is_inflated(request):
        named |= {hdrs.CONTENT_ENCODING.lower()}
    client = client_of(request)
    if client.key is not None and client.key.has_tokens:  # its usage is read as it passes
        named |= {hdrs.ACCEPT_ENCODING.lower()}
    headers = [
        (name, value)
        for name, value in request.headers.items()
        if name.lower() not in _NOT_TO_UPSTREAM and name.lower() not in named
    ]
    own = client.authorization
    key = request.headers.get(_KEY)
    if own is None and key is not None and context.access.open:
        own = f"Bearer {key}"
    credential = context.upstream.credential(own)
    if credential is not None:
        headers.append(("Authorization", credential))
        if key is not None:  # Anthropic's header, for a gateway that reads no other
            headers.append((_KEY, credential.partition(" ")[2]))
    return headers


def _headers_for_client(head: Head) -> list[tuple[str, str]]:
    named = _named_in_connection(head.headers.get("connection", ""))
    headers = [
        (name, value)
        for name, value in head.lines
        if name not in _NOT_TO_CLIENT and name not in named
    ]
    if (theirs := head.headers.get("x-request-id")) is not None:
        headers.append(("X-Upstream-Request-Id", theirs))
    return headers


def _named_in_connection(value: str) -> frozenset[str]:
    return frozenset(name.strip().lower() for name in value.split(","))
