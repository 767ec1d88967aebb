"""Connects to the upstream, or says in words why that was not possible; knows nothing of chat."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import cast

import attrs

from streaming_api.upstreams.endpoint import Endpoint
from streaming_api.upstreams.http1 import ResponseProtocol
from streaming_api.upstreams.kept_alive import KeptAlive
from streaming_api.upstreams.reply_errors import UpstreamFault, fault


@attrs.frozen
class Connector:
    """Where to connect and how long to wait; `open_streams` holds what is connected now.

    Attributes:
        kept: connections on which another request may follow.
    """

    endpoint: Endpoint
    tls: ssl.SSLContext | None
    connect_timeout: float
    silence_timeout: float
    kept: KeptAlive
    open_streams: set[ResponseProtocol] = attrs.field(factory=set)

    def reuse(self, stream: ResponseProtocol) -> bool:
        """Connect `stream` by a kept connection; return False if there is none."""
        self._open(stream)
        if self.kept.take(cast(asyncio.Protocol, stream)):
            return True
        self.open_streams.discard(stream)
        return False

    def _open(self, stream: ResponseProtocol) -> None:
        self.open_streams.add(stream)
        stream.on_closed = self.open_streams.discard
        stream.on_reusable = self.kept.put

    async def connect(self, stream: ResponseProtocol) -> UpstreamFault | None:
        """Connect `stream` anew, or return why that was not possible."""
        loop = asyncio.get_running_loop()
        self._open(stream)
        try:
            async with asyncio.timeout(self.connect_timeout):
                await loop.create_connection(
                    lambda: cast(asyncio.Protocol, stream),
                    self.endpoint.host,
                    self.endpoint.port,
                    ssl=self.tls,
                )
        except (OSError, ValueError) as exc:
            self.open_streams.discard(stream)
            return unreachable(self.endpoint, exc, self.connect_timeout)
        except asyncio.CancelledError:
            self.open_streams.discard(stream)
            raise
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
