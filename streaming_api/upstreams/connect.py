"""Connects to the upstream, or says in words why that was not possible; knows nothing of chat."""

from __future__ import annotations

import asyncio
import socket
import ssl

from streaming_api.upstreams.endpoint import Endpoint
from streaming_api.upstreams.reply_errors import UpstreamFault, fault


async def connect(
    protocol: asyncio.Protocol, endpoint: Endpoint, tls: ssl.SSLContext | None, seconds: float
) -> UpstreamFault | None:
    """Connect a protocol to the endpoint within so many seconds, or return why it failed."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            await loop.create_connection(lambda: protocol, endpoint.host, endpoint.port, ssl=tls)
    except (OSError, ValueError) as exc:
        return unreachable(endpoint, exc, seconds)
    return None


def unreachable(endpoint: Endpoint, exc: Exception, connect_timeout: float) -> UpstreamFault:
    """Put into words why a connection could not be made, and what to check."""
    advice = "Check that it runs, and that the gateway endpoint in the configuration is right."
    if isinstance(exc, TimeoutError):
        reason = f"it did not accept a connection within {connect_timeout:g} s"
    elif isinstance(exc, ssl.SSLError):
        reason = f"TLS failed ({getattr(exc, 'verify_message', None) or exc.reason or exc})"
        advice = "Check that it speaks TLS and that this machine trusts its certificate."
    elif isinstance(exc, (socket.gaierror, ValueError)):
        reason = "its name could not be resolved"
        advice = "Check the spelling of the gateway endpoint, and DNS."
    else:
        reason = (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
    return fault(
        "upstream_unreachable",
        f"Cannot reach the upstream at {endpoint.authority}: {reason}. {advice}",
    )
