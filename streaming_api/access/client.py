"""Client: who is at the other end, and what it may do."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final

import attrs

from streaming_api.access.rates import Bucket
from streaming_api.config import ApiKey
from streaming_api.errors import Forbidden, TooMany
from streaming_api.trace_context import TraceContext

SCOPES: Final = frozenset({"chat", "watch", "alerts", "admin"})


COMMAND_BYTES: Final = 16 * 2**10
"""Bytes that cost as much as a whole command to check, to read and to pass on."""


@attrs.frozen
class Client:
    """The client at the other end of a request or connection.

    Attributes:
        owner: the name of its key; "" when no keys are configured.
        scopes: what it may do.
        address: its IP address; behind a trusted proxy, what the proxy says.
        commands: the bucket that its commands are taken from, shared by its connections.
        authorization: its ``Authorization`` for the gateway; None where that holds a key of ours.
        by_ticket: whether it was admitted by a ticket.
        key: its key, with limits of its own; None without keys.
        face: the API that it speaks: ``openai``, ``websocket``, ... (`streaming_api.web.guard`).
        trace: the trace that it has sent, if any.
    """

    owner: str
    scopes: frozenset[str]
    address: str
    commands: Bucket
    authorization: str | None = attrs.field(default=None, repr=False)
    by_ticket: bool = False
    key: ApiKey | None = None
    face: str = "other"
    trace: TraceContext | None = None

    @property
    def network(self) -> str:
        """The network that limits per address apply to (`network_of`)."""
        return network_of(self.address)

    @property
    def name(self) -> str:
        """The name under which its limits are counted: its key's, or without keys its network."""
        return self.owner or self.network

    def may_ask(self, model: str) -> bool:
        """Return whether its key, if it has one, may ask a model."""
        return self.key is None or self.key.may_ask(model)

    def require(self, *scopes: str) -> None:
        """Check that the client has one of these scopes.

        Raises:
            Forbidden: it has none of them.
        """
        if self.scopes.isdisjoint(scopes):
            needed = " or ".join(scopes)
            message = f"This key lacks the scope {needed}; ask the operator for one that has it."
            raise Forbidden(message, "missing_scope")

    def take_command(self, size: int = 0) -> None:
        """Count one command, before any work is done for it.

        Args:
            size: its bytes; a large command counts once for each started `COMMAND_BYTES`.

        Raises:
            TooMany: ``commands_per_second`` is exceeded.
        """
        wait = self.commands.take(max(1, -(-size // COMMAND_BYTES)))
        if wait:
            message = f"Too many commands; the next one is taken in {wait:.2f} s."
            raise TooMany(message, "too_many_commands", retry_after=wait)

    def owe(self, size: int) -> None:
        """Count a body that has been let in as one command, as a command of its size."""
        self.commands.owe(max(0, size - 1) // COMMAND_BYTES)


@lru_cache(1024)
def network_of(address: str) -> str:
    """Return the network that limits apply to: the address; for IPv6 the /64 of one customer."""
    if ":" not in address:
        return address
    parsed = ipaddress.IPv6Address(address.partition("%")[0])  # without the zone (RFC 4007)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, 64), strict=False))
