"""The guard: one middleware before every handler. Who is it, may it; every error in one shape."""

from __future__ import annotations

import base64
import binascii
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Final

import orjson
from aiohttp import hdrs, web

from streaming_api.doors import Client
from streaming_api.errors import ApiError, Forbidden, NotFound, Unauthorized, UpgradeRequired
from streaming_api.web.context import CLIENT, CONTEXT

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

BEARER_SUBPROTOCOL: Final = "streaming-api.bearer."
ANY: Final = "any"
"""The scope of a handler for whoever has a key: what it may do is checked command by command."""
_SCOPE: Final = "streaming_api_scope"


def scope(name: str) -> Callable[[Handler], Handler]:
    """A handler for clients with this scope only; without it a handler is for everybody."""

    def mark(handler: Handler) -> Handler:
        setattr(handler, _SCOPE, name)
        return handler

    return mark


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Check Host, Origin and credentials, then let the handler answer; errors become JSON."""
    try:
        request[CLIENT] = _client(request)
        return await handler(request)
    except ApiError as error:
        return error_response(error)
    except web.HTTPException as error:
        if error.status < 400:  # a redirect is an answer, not an error
            raise
        return _http_error(error)
    except (ConnectionError, TimeoutError):
        raise
    except Exception:
        logger.exception("%s %s failed", request.method, request.rel_url.raw_path)
        message = "The server failed; the operator finds the reason in its log."
        return error_response(ApiError(message, "internal_error"))


def _client(request: web.Request) -> Client:
    context = request.app[CONTEXT]
    doors = context.doors
    headers = request.headers
    host = headers.get(hdrs.HOST, "")
    try:
        if host:
            doors.check_host(host)
        origin = headers.get(hdrs.ORIGIN)
        if origin is not None:
            doors.check_origin(origin, host)
    except Forbidden as error:
        context.telemetry.refused(error.code.removesuffix("_not_allowed"))
        raise
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    address = str(peer[0]) if peer else ""
    if hdrs.X_FORWARDED_FOR in headers:
        hops = ",".join(headers.getall(hdrs.X_FORWARDED_FOR)).split(",")
        address = doors.address(address, (hop.strip() for hop in hops))
    needed: str | None = getattr(request.match_info.handler, _SCOPE, None)
    if doors.open or needed is None:
        return doors.client(None, address, headers.get(hdrs.AUTHORIZATION))
    try:
        client = _authenticated(request, address)
        if needed != ANY:
            client.require(needed)
    except (Unauthorized, Forbidden):
        context.telemetry.refused("credential")
        raise
    return client


def _authenticated(request: web.Request, address: str) -> Client:
    doors = request.app[CONTEXT].doors
    ticket = request.query.get("ticket")
    if ticket is not None:
        return doors.client(doors.redeem(ticket), address)
    token = bearer_of(request)
    if token is None:
        message = "An API key is required: Authorization: Bearer KEY (see the documentation)."
        raise Unauthorized(message, "missing_api_key")
    return doors.client(doors.key_of(token), address)


def bearer_of(request: web.Request) -> str | None:
    """The API key in ``Authorization``, or in the WebSocket subprotocol that browsers can send."""
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


def error_response(error: ApiError) -> web.Response:
    """``{"error": {type, code, message, param}}`` with the error's status."""
    response = web.Response(
        body=orjson.dumps({"error": error.body()}),
        status=error.status,
        content_type="application/json",
    )
    if error.retry_after is not None:
        response.headers[hdrs.RETRY_AFTER] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, UpgradeRequired):
        response.headers[hdrs.UPGRADE] = "websocket"
        response.headers[hdrs.SEC_WEBSOCKET_VERSION] = "13"
        response.force_close()
    if isinstance(error, Unauthorized):
        response.headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="streaming-api"'
    return response


def _http_error(error: web.HTTPException) -> web.Response:
    """Errors of aiohttp itself (no such route, wrong method, body too large) in our shape."""
    told = {
        404: "There is nothing at this path; GET /streaming/openapi.json lists what there is.",
        405: f"This path takes {', '.join(sorted(getattr(error, 'allowed_methods', ())))}.",
        413: "The body is too large.",
    }
    wrapped = NotFound(told.get(error.status, error.reason), _code(error))
    wrapped.status = error.status
    response = error_response(wrapped)
    if hdrs.ALLOW in error.headers:
        response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
    return response


def _code(error: web.HTTPException) -> str:
    return error.reason.lower().replace(" ", "_")


