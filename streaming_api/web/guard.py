"""The guard: one middleware before every handler. Who is it, may it; every error in one shape."""

from __future__ import annotations

import base64
import binascii
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import orjson
from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11

from streaming_api.access.client import Client
from streaming_api.access.policy import Policy
from streaming_api.config import ApiKey
from streaming_api.errors import (
    ApiError,
    BadRequest,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    TooMany,
    Unauthorized,
    Unavailable,
    UnsupportedCoding,
    UpgradeRequired,
)
from streaming_api.ops.context import CLIENT, CONTEXT, route_of
from streaming_api.trace_context import TraceContext
from streaming_api.web.absent import why_no_method, why_no_path
from streaming_api.web.headers import is_preflight, preflight
from streaming_api.web.one_request import check_expectation
from streaming_api.web.tickets import redeem

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

BEARER_SUBPROTOCOL: Final = "streaming-api.bearer."
ANY: Final = "any"
"""The scope of a handler that any key may use: permissions are checked command by command."""
_SCOPE: Final = "streaming_api_scope"
_ANTHROPIC_PATH: Final = "/v1/messages"
_ANTHROPIC_HEADER: Final = "anthropic-version"
_FACES: Final = {
    "/v1/chat/completions": "openai",
    "/chat/completions": "openai",
    "/v1/responses": "responses",
    "/v1/messages": "anthropic",
    "/api/chat": "ui",
    "/streaming/sse/chat": "sse",
    "/streaming/websocket": "websocket",
    "/streaming/websocket/chat": "websocket",
}
"""The API that a route belongs to, under its name in logs, figures and traces."""
_CLOSING: Final = frozenset({"invalid_http", "slow_body", "unexpected_body"})
"""Errors after which nothing more on the connection can be trusted to be a request."""


def scope(name: str) -> Callable[[Handler], Handler]:
    """Restrict a handler to clients with this scope; a handler without a scope is open to all."""

    def mark(handler: Handler) -> Handler:
        setattr(handler, _SCOPE, name)
        return handler

    return mark


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Check Host, Origin and credentials, then let the handler answer; errors become JSON."""
    try:
        check_expectation(request)
        request[CLIENT] = await _client(request)
        response = await handler(request)
    except ApiError as error:
        _count_refusal(request, error)
        response = error_response(error, request)
    except web.HTTPException as error:
        if error.status < 400:  # a redirect is an answer, not an error
            raise
        error.__traceback__ = None  # the request keeps an error of its route, and would be kept
        response = _http_error(request, error)
    except web.RequestPayloadError as error:
        error.__traceback__ = None
        broken = BadRequest("The body is not what its headers say.", "invalid_http")
        _count_refusal(request, broken)
        response = error_response(broken, request)
    except (ConnectionError, TimeoutError) as error:
        if request.transport is not None and not request.transport.is_closing():
            raise
        error.__traceback__ = None  # the body keeps it, and it would keep the body
        return web.Response()  # never sent: the client has left, so there is nothing to log
    except Exception:
        logger.exception("%s %s failed", request.method, route_of(request))
        message = "The server failed; the operator finds the reason in its log."
        response = error_response(ApiError(message, "internal_error"), request)
    return response


def _trace(request: web.Request) -> TraceContext | None:
    sent = request.headers.get("traceparent")
    if sent is None:
        return None
    return TraceContext.parse(sent, request.headers.get("tracestate", ""))


async def _client(request: web.Request) -> Client:
    access = request.app[CONTEXT].access
    peer = _peer(request)
    _check_origin(request, access, peer)
    address = _address(request, peer)
    needed: str | None = getattr(request.match_info.handler, _SCOPE, None)
    key, by_ticket = None, False
    if needed is not None and not access.open:
        key, by_ticket = await _credential(request)
    client = access.client(
        key,
        address,
        request.headers.get(hdrs.AUTHORIZATION),
        by_ticket=by_ticket,
        face=_FACES.get(route_of(request), "other"),
        trace=_trace(request),
    )
    if needed is not None and needed != ANY:
        client.require(needed)
    return client


def _count_refusal(request: web.Request, error: ApiError) -> None:
    client: Client | None = request.get(CLIENT)
    owner = "" if client is None else client.owner
    request.app[CONTEXT].manager.refused(error, _address(request, _peer(request)), owner)


def _peer(request: web.Request) -> str:
    """Return the address that has connected; a proxy's, where there is one."""
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    return str(peer[0]) if peer else ""


def _address(request: web.Request, peer: str) -> str:
    """Return the client's address, as a trusted proxy names it."""
    if hdrs.X_FORWARDED_FOR not in request.headers:
        return peer
    hops = ",".join(request.headers.getall(hdrs.X_FORWARDED_FOR)).split(",")
    return request.app[CONTEXT].access.address(peer, (hop.strip() for hop in hops))


def _check_origin(request: web.Request, access: Policy, peer: str) -> None:
    """Check the host that the request was sent to, and the page that sent it.

    Raises:
        Forbidden: the ``Host`` or ``Origin`` is foreign.
    """
    headers = request.headers
    host = headers.get(hdrs.HOST, "")
    if host or request.version >= HttpVersion11:
        access.check_host(host)
    if not request.raw_path.startswith(("/", "*")):  # absolute form: overrides Host (RFC 9112)
        host = request.url.raw_authority
        access.check_host(host)
    if hdrs.ORIGIN in headers:
        forwarded = ",".join(headers.getall(hdrs.X_FORWARDED_PROTO, ()))
        scheme = access.scheme(peer, request.scheme, forwarded)
        for origin in headers.getall(hdrs.ORIGIN):
            access.check_origin(origin, host, scheme)


async def _credential(request: web.Request) -> tuple[ApiKey | None, bool]:
    """Return the key that the request is sent with, and whether a ticket stands for it."""
    access = request.app[CONTEXT].access
    ticket = request.query.get("ticket")
    if ticket is not None:
        return await redeem(request.app[CONTEXT], ticket), True
    token = bearer_of(request) or request.headers.get("X-Api-Key")  # Anthropic's clients
    if token is None:
        message = "An API key is required: Authorization: Bearer KEY (see the documentation)."
        raise Unauthorized(message, "missing_api_key")
    return access.key_of(token), False


def bearer_of(request: web.Request) -> str | None:
    """Return the API key in ``Authorization``, or in the subprotocol of a browser's WebSocket."""
    method, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if method.lower() == "bearer" and token.strip():
        return token.strip()
    for protocol in request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(","):
        name = protocol.strip()
        if name.startswith(BEARER_SUBPROTOCOL):
            encoded = name.removeprefix(BEARER_SUBPROTOCOL)
            try:
                padded = encoded + "=" * (-len(encoded) % 4)
                return base64.urlsafe_b64decode(padded).decode()
            except (binascii.Error, ValueError):
                return None
    return None


def error_response(error: ApiError, request: web.Request | None = None) -> web.Response:
    """Return ``{"error": {type, code, message, param}}`` with the error's status.

    To a client of Anthropic's API it also says ``"type": "error"``, as that API does.
    """
    anthropic = request is not None and (
        request.path.startswith(_ANTHROPIC_PATH) or _ANTHROPIC_HEADER in request.headers
    )
    wrapper: dict[str, object] = {"type": "error"} if anthropic else {}
    response = web.Response(
        body=orjson.dumps(wrapper | {"error": error.body()}),
        status=error.status,
        content_type="application/json",
    )
    if error.retry_after is not None:
        response.headers[hdrs.RETRY_AFTER] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, UpgradeRequired):
        response.headers[hdrs.UPGRADE] = "websocket"
        response.headers[hdrs.CONNECTION] = "Upgrade, close"  # RFC 9110 section 7.8
        response.headers[hdrs.SEC_WEBSOCKET_VERSION] = "13"
        response.force_close()
    if isinstance(error, UnsupportedCoding):
        response.headers[hdrs.ACCEPT_ENCODING] = "gzip, deflate"  # RFC 9110 section 15.5.16
    if isinstance(error, MethodNotAllowed):
        response.headers[hdrs.ALLOW] = error.allowed
    if isinstance(error, Unauthorized):
        response.headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="streaming-api"'
    if isinstance(error, Unauthorized | Forbidden) or error.code in _CLOSING:
        response.force_close()
    return response


_KINDS: Final[Mapping[int, type[ApiError]]] = {
    kind.status: kind
    for kind in (Unauthorized, Forbidden, NotFound, TooLarge, TooMany, Unavailable)
}
"""Our error for each of aiohttp's; any other is the client's fault, or from 500 on the server's."""


def _http_error(request: web.Request, error: web.HTTPException) -> web.Response:
    """Return aiohttp's own error (no such route, wrong method, body too large) in our shape."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        methods = {*error.allowed_methods, hdrs.METH_OPTIONS}
        if request.method == hdrs.METH_OPTIONS:
            return web.Response(status=204, headers=preflight(request, methods))
        allowed = ", ".join(sorted(methods))
        if (absent := why_no_path(request.path)) is not None:  # it looked like one that is there
            return error_response(NotFound(absent, "not_found"), request)
        why = why_no_method(request.method, request.path) or f"This path takes {allowed}."
        return error_response(MethodNotAllowed(why, allowed=allowed), request)
    if request.method == hdrs.METH_OPTIONS and request.raw_path == "*":  # the server as a whole
        methods = {route.method for route in request.app.router.routes()} - {"*"}
        headers = preflight(request, {*methods, hdrs.METH_OPTIONS})
        return web.Response(status=204, headers=headers)
    if is_preflight(request):  # so that the page can read what the request itself is answered
        return web.Response(status=204, headers=preflight(request, set()))
    kinds = {404: _nothing_here(request), 413: "The body is too large."}
    kind = _KINDS.get(error.status, ApiError if error.status >= 500 else BadRequest)
    wrapped = kind(kinds.get(error.status, error.reason), _code(error))
    wrapped.status = error.status
    return error_response(wrapped, request)


def _nothing_here(request: web.Request) -> str:
    """Return the message for a path that is not served; name those that are to an OpenAI client."""
    if not request.path.startswith("/v1/"):
        return "There is nothing at this path; GET /streaming/openapi.json lists what there is."
    absent = why_no_path(request.path)
    if absent is not None:
        return absent
    served = sorted(
        f"{route.method} {route.resource.canonical}"
        for route in request.app.router.routes()
        if route.resource is not None
        and route.resource.canonical.startswith("/v1/")
        and route.method != hdrs.METH_HEAD
    )
    return f"There is nothing at this path. Of OpenAI's API there is: {', '.join(served)}."


def _code(error: web.HTTPException) -> str:
    return error.reason.lower().replace(" ", "_")
