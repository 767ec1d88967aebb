"""Policy: who a client is and what it may do. Keys, tickets, origins, hosts, rates. Knows no HTTP.

With no keys configured whoever reaches the port may use it; Origin and Host are checked all the
same, because a browser on the operator's desk reaches the port for any page that it shows
(cross-site WebSocket hijacking, DNS rebinding).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from streaming_api.access.client import SCOPES, Client, network_of
from streaming_api.access.fair_table import FairTable
from streaming_api.access.rates import Buckets
from streaming_api.config import ApiKey, StreamingConfig
from streaming_api.errors import Forbidden, TooMany, Unauthorized
from streaming_api.trace_context import TraceContext

TICKET_SECONDS: Final = 30.0
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]*)?")
_TICKETS: Final = 10_000


class Policy:
    """Checks whoever comes in.

    Args:
        config: keys, origins, hosts, proxies, rates.
    """

    def __init__(self, config: StreamingConfig) -> None:
        self._tickets: FairTable[tuple[ApiKey | None, float]] = FairTable(_TICKETS)
        self.apply(config)

    def apply(self, config: StreamingConfig) -> None:
        """Apply this configuration from now on; all buckets start full again."""
        self._keys: Sequence[ApiKey] = tuple(config.api_keys)
        self._origins = frozenset(origin.rstrip("/").lower() for origin in config.allowed_origins)
        self._hosts = {"localhost", socket.gethostname().lower(), *config.allowed_hosts}
        self._proxies = [ipaddress.ip_network(network) for network in config.trusted_proxies]
        self._commands = Buckets(config.commands_per_second, 2 * config.commands_per_second)
        per_minute = config.connections_per_minute
        self._connections = Buckets(per_minute / 60, max(per_minute / 6, 1))

    @property
    def open(self) -> bool:
        """Whether no keys are configured: whoever reaches the port may use it."""
        return not self._keys

    # Who

    def client(
        self,
        key: ApiKey | None,
        address: str,
        authorization: str | None = None,
        *,
        by_ticket: bool = False,
        face: str = "other",
        trace: TraceContext | None = None,
    ) -> Client:
        """Return the client with this key (None: open access) at this address."""
        owner = key.name if key is not None else ""
        scopes = frozenset(key.scopes) if key is not None else SCOPES
        bucket = self._commands.get(f"key {owner}" if owner else f"address {network_of(address)}")
        forwarded = authorization if self.open else None
        return Client(owner, scopes, address, bucket, forwarded, by_ticket, key, face, trace)

    def key_names(self) -> list[str]:
        """Return the names of all configured keys."""
        return [key.name for key in self._keys]

    def key_of(self, token: str) -> ApiKey:
        """Return the key whose secret this is; compare in constant time, with every key.

        Raises:
            Unauthorized: there is no such key.
        """
        digest = hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256.lower(), digest):
                found = key
        if found is None:
            raise Unauthorized("This API key is not known here.", "invalid_api_key")
        if found.has_expired(datetime.now(UTC)):
            raise Unauthorized("This API key has expired; ask for a new one.", "expired_api_key")
        return found

    def issue_ticket(self, client: Client) -> str:
        """Issue a one-use ticket for clients that cannot send headers; good for TICKET_SECONDS.

        Raises:
            Forbidden: the client itself was admitted by a ticket, which could be renewed for ever.
            TooMany: ``commands_per_second`` is exceeded.
        """
        client.take_command()
        if client.by_ticket:
            message = "A ticket buys no other; ask with the key."
            raise Forbidden(message, "ticket_by_ticket")
        key = next((key for key in self._keys if key.name == client.owner), None)
        ticket = secrets.token_urlsafe(24)
        self._tickets.put(ticket, (key, time.monotonic() + TICKET_SECONDS), client.name)
        return ticket

    def key_named(self, owner: str) -> ApiKey | None:
        """Return the key of this name; None where no keys are configured.

        Raises:
            Unauthorized: there is no such key any more.
        """
        key = next((key for key in self._keys if key.name == owner), None)
        if key is None and owner:
            message = "This ticket is unknown, used or too old; get a new one."
            raise Unauthorized(message, "invalid_ticket")
        return key

    def redeem(self, ticket: str) -> ApiKey | None:
        """Return the key that the ticket was issued for; the ticket is used up.

        Raises:
            Unauthorized: the ticket is unknown, used or too old.
        """
        key, until = self._tickets.pop(ticket) or (None, 0.0)
        if time.monotonic() > until or (key not in self._keys and not self.open):
            message = "This ticket is unknown, used or too old; get a new one."
            raise Unauthorized(message, "invalid_ticket")
        return key

    # From where

    def check_host(self, host: str) -> None:
        """Refuse a Host that DNS rebinding could have brought: a name that is not this machine's.

        Raises:
            Forbidden: it is no IP literal, not localhost, not this machine's name, and not allowed.
        """
        name = _hostname(host)
        if name is None or (name not in self._hosts and not _is_address(name)):
            message = "This host name is not served here; see allowed_hosts."
            raise Forbidden(message, "host_not_allowed")

    def scheme(self, peer: str, own: str, forwarded: str) -> str | None:
        """Return the browser's scheme: ``https``, ``http``, or None where that is not known.

        Args:
            peer: the address that has connected.
            own: the scheme of this server.
            forwarded: X-Forwarded-Proto, of which a trusted proxy has added the last word.
        """
        if forwarded and self._trusted(peer):
            said = forwarded.rpartition(",")[2].strip().lower()
            return said if said in {"http", "https"} else None
        return "https" if own == "https" else None  # a proxy may speak TLS in front of us

    @property
    def has_origins(self) -> bool:
        """Whether pages of other origins are allowed at all."""
        return bool(self._origins)

    def is_allowed_origin(self, origin: str) -> bool:
        """Return whether this is one of ``allowed_origins``."""
        return origin.lower() in self._origins

    def check_origin(self, origin: str, host: str, scheme: str | None = None) -> None:
        """Refuse other sites' pages; a request without an Origin comes from no browser.

        Args:
            origin: the page's origin.
            host: the host that the request was sent to.
            scheme: the browser's scheme, where it is known.

        Raises:
            Forbidden: it is neither the same origin nor an allowed one.
        """
        if self.is_allowed_origin(origin):
            return
        asked = origin.lower()
        try:
            parts = urlsplit(asked)
            here = _authority(host.lower(), parts.scheme)
            there = _authority(parts.netloc, parts.scheme)
            allowed = {"http", "https"} if scheme is None else {scheme}
            same = parts.scheme in allowed and there == here
        except ValueError:
            same = False
        if not same:
            message = "Pages of this origin may not connect; see allowed_origins."
            raise Forbidden(message, "origin_not_allowed")

    def address(self, peer: str, forwarded: Iterable[str]) -> str:
        """Return the client's address: X-Forwarded-For from the right, past trusted proxies."""
        address = peer
        for hop in reversed(list(forwarded)):
            if not self._trusted(address):
                break
            name = hop if _is_address(hop) else _hostname(hop)  # some proxies add the port
            if name is None or not _is_address(name):
                break
            address = name
        return address

    def _trusted(self, address: str) -> bool:
        if not self._proxies:
            return False
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped  # the address of an IPv4 client, where :: is listened on
        return any(parsed in network for network in self._proxies)

    # How often

    @property
    def rates(self) -> dict[str, Buckets]:
        """What limits rates, by kind."""
        return {"commands": self._commands, "connections": self._connections}

    def take_connection(self, client: Client) -> None:
        """Count one connection from this address, and with this key.

        Raises:
            TooMany: ``connections_per_minute`` is exceeded.
        """
        wait = self._connections.get(f"address {client.network}").take()
        if not wait and client.owner:
            wait = self._connections.get(f"key {client.owner}").take()
        if wait:
            message = f"Too many new connections; the next one is taken in {wait:.0f} s."
            raise TooMany(message, "rate", retry_after=wait)


def _hostname(host: str) -> str | None:
    """Return the name in ``name:port``, in lower case, without brackets and the root's dot."""
    found = _HOST.fullmatch(host.lower())
    return None if found is None else found[1].strip("[]").removesuffix(".")


def _authority(netloc: str, scheme: str) -> tuple[str, str]:
    name, colon, port = netloc.rpartition(":")
    if not colon or not port.isdigit():
        name, port = netloc, ""
    return name, port or ("443" if scheme == "https" else "80")


@lru_cache(1024)  # every request has a Host, and it is nearly always the same
def _is_address(name: str) -> bool:
    if "%" in name:  # a zone (RFC 4007): no client of ours has one, and anything may stand in it
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
