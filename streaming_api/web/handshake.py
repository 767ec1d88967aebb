"""The WebSocket handshake, as RFC 6455 (section 4.2) has it; then the connection is taken over."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from typing import Final, TypeVar

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11

from streaming_api.connections.connection import Connection
from streaming_api.errors import BadRequest, NotFound, UpgradeRequired
from streaming_api.ops.context import CONTEXT
from streaming_api.web.one_request import listed
from streaming_api.web.takeover import reserve_slot, take_over
from streaming_api.wire.deflate import Deflate, negotiate

SUBPROTOCOL: Final = "streaming-api.v1"
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

Socket = TypeVar("Socket", bound=Connection)


def open_socket(request: web.Request, make: Callable[[Deflate | None], Socket]) -> Socket:
    """Answer a handshake, and take its connection over.

    Args:
        request: the handshake.
        make: makes the connection.

    Raises:
        ApiError: the request is not a handshake, or must not be accepted.
    """
    config = request.app[CONTEXT].config
    if not config.websocket_enabled:
        message = "WebSocket is switched off (websocket.enabled); use /streaming/sse."
        raise NotFound(message, "websocket_disabled")
    key = _handshake_key(request)
    with reserve_slot(request, "websocket") as slot:
        deflate = None
        if config.compression_enabled and config.websocket_compression:
            deflate = negotiate(request.headers.get(hdrs.SEC_WEBSOCKET_EXTENSIONS, ""))
        connection = make(deflate)
        take_over(request, connection, slot, _switching_protocols(request, key, deflate))
    return connection


def _handshake_key(request: web.Request) -> str:
    """Return the client's nonce, if this is a handshake (RFC 6455 section 4.2.1).

    Raises:
        UpgradeRequired: it is a plain request, or asks for another version.
        BadRequest: it is a handshake with an error in it.
    """
    headers = request.headers
    upgrade, connection = (
        {token.lower() for token in listed(headers, name)}
        for name in (hdrs.UPGRADE, hdrs.CONNECTION)
    )
    asked = "websocket" in upgrade and "upgrade" in connection
    if not asked or request.version < HttpVersion11:
        message = "This path speaks WebSocket: connect with ws://; curl can use /streaming/sse."
        raise UpgradeRequired(message, "upgrade_required")
    if headers.get(hdrs.SEC_WEBSOCKET_VERSION) != "13":
        raise UpgradeRequired("WebSocket version 13 is spoken here.", "unsupported_version")
    if request.can_read_body or hdrs.TRANSFER_ENCODING in headers:
        raise BadRequest("A handshake has no body.", "body_in_handshake")
    key = headers.get(hdrs.SEC_WEBSOCKET_KEY, "")
    try:
        valid = len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        valid = False
    if not valid:
        message = "Sec-WebSocket-Key must be 16 bytes in base64."
        raise BadRequest(message, "invalid_key")
    return key


def _switching_protocols(request: web.Request, key: str, deflate: Deflate | None) -> bytes:
    accept = base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest())  # noqa: S324 (RFC 6455)
    lines = [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade",
        b"Sec-WebSocket-Accept: " + accept,
    ]
    if SUBPROTOCOL in listed(request.headers, hdrs.SEC_WEBSOCKET_PROTOCOL):
        lines.append(b"Sec-WebSocket-Protocol: " + SUBPROTOCOL.encode())
    if deflate is not None:
        lines.append(b"Sec-WebSocket-Extensions: " + deflate.header.encode())
    return b"\r\n".join(lines) + b"\r\n\r\n"
