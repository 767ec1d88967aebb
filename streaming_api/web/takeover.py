"""Takeover: after the request, a connection's transport is ours; aiohttp keeps no part in it.

aiohttp parses the request and checks it; from then on its task, parser, writer and keep-alive timer
would only cost memory and wake-ups. The hand-over uses two public attributes (``request.protocol``,
``protocol.transport``) and reports to aiohttp what is true from its side: the connection is gone.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from aiohttp import hdrs, web

from streaming_api.errors import BadRequest, MethodNotAllowed
from streaming_api.ops.context import CONTEXT, client_of

if TYPE_CHECKING:
    import asyncio

    from streaming_api.connections.admission import Slot
    from streaming_api.connections.connection import Connection
    from streaming_api.web.one_request import OneRequest


def reserve_slot(request: web.Request, kind: str) -> Slot:
    """Reserve a slot within the limits for this request's connection.

    Raises:
        Unavailable: a limit is reached.
        TooMany: this address or key opens too many connections a minute.
        BadRequest: the request has a body, which nobody would read.
        MethodNotAllowed: it is a HEAD, whose reply has no body and so leaves nothing to take over.
    """
    if request.method == hdrs.METH_HEAD:
        raise MethodNotAllowed("This path takes GET.", allowed="GET")
    if request.can_read_body:
        raise BadRequest("This request takes no body.", "unexpected_body")
    return take_slot(request, kind)


def take_slot(request: web.Request, kind: str) -> Slot:
    """Take a slot for a request whose connection stays with aiohttp.

    Raises:
        Unavailable: a limit is reached.
        TooMany: this address or key opens too many connections a minute.
    """
    context = request.app[CONTEXT]
    client = client_of(request)
    context.access.take_connection(client)
    sock = None if request.transport is None else request.transport.get_extra_info("socket")
    descriptor = -1 if sock is None else sock.fileno()
    admin = "admin" in client.scopes
    return context.manager.admission.admit(kind, client.network, descriptor, admin=admin)


class _Taken(web.StreamResponse):
    """What a handler returns to aiohttp when the transport no longer belongs to aiohttp."""

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send nothing."""

    async def write_eof(self, data: bytes = b"") -> None:
        """End nothing."""


TAKEN: Final[web.StreamResponse] = _Taken()


def hand_back(connection: Connection, behind: bytes) -> bool:
    """Let aiohttp read the next request on a connection whose response is sent, to the last byte.

    Args:
        connection: is gone after this; its transport is not.
        behind: what the client has sent already.

    Returns:
        Whether this was possible: not while stopping.
    """
    manager = connection.manager
    if manager.http is None or manager.leaving or manager.draining:
        return False
    transport = connection.transport
    handler = manager.http()
    transport.set_write_buffer_limits()
    transport.set_protocol(handler)
    connection.connection_lost(None)
    handler.connection_made(transport)
    transport.resume_reading()
    if behind:
        handler.data_received(behind)
    return True


def _end(connection: Connection) -> None:
    """Notify a connection that its client sends nothing more."""
    transport = connection.transport
    if cast("object", transport.get_protocol()) is connection and not transport.is_closing():
        connection.eof_received()
        transport.close()


def take_over(
    request: web.Request, connection: Connection, slot: Slot, opening: bytes = b""
) -> None:
    """Hand the request's transport to ``connection``. Nothing may be awaited after this.

    Args:
        request: whose transport it is.
        connection: takes the transport.
        slot: the connection's, from `reserve_slot`.
        opening: bytes to send before anything else.

    Raises:
        ConnectionResetError: the client has gone already.
    """
    protocol = request.protocol
    transport = protocol.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError
    ours = cast("OneRequest", protocol)
    behind = ours.take_behind()
    if ours.ended:  # the end came before the takeover: pass it on now
        asyncio.get_running_loop().call_soon(_end, connection)
    transport.set_protocol(cast("asyncio.Protocol", connection))
    protocol.transport = None
    protocol.connection_lost(None)
    connection.transport = transport
    if opening:
        transport.write(opening)
    request.app[CONTEXT].manager.add(connection, slot)
    transport.resume_reading()
    if behind:
        connection.data_received(behind)
