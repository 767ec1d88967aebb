"""The audit log: who did what that concerns others, one line each. Never a key or a ticket."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

from streaming_api.access.client import network_of

if TYPE_CHECKING:
    from streaming_api.access.client import Client

logger = logging.getLogger("streaming_api.audit")

_NAMED: Final = 5
"""Clients that a line about refusals names."""
_COUNTED: Final = 1_000
"""Clients that are counted between two such lines; the others are counted together."""
_OTHERS: Final = ("", "")


def ticket_issued(client: Client) -> None:
    """Note that a client got a ticket."""
    logger.info("ticket issued to %s at %s", client.owner or "no key", client.address)


def alerts_posted(client: Client, count: int) -> None:
    """Note that a client posted alerts."""
    logger.info("%d alerts posted by %s from %s", count, client.owner or "no key", client.address)


def answer_cancelled(client: Client, request_id: str) -> None:
    """Note that a client cancelled an answer, which may have been another device's."""
    logger.info(
        "answer %s cancelled by %s from %s (%s)",
        request_id, client.owner or "no key", client.address, client.face,
    )  # fmt: skip


class RefusedClients:
    """What was refused since the last line about it: why, and whose or from where."""

    def __init__(self) -> None:
        self._counted: Counter[tuple[str, str]] = Counter()

    def add(self, code: str, address: str, owner: str = "") -> None:
        """Count a refusal.

        Args:
            code: the error's.
            address: the client's.
            owner: the name of its key, if it is known.
        """
        source = (code, f"of {owner}" if owner else f"from {network_of(address)}")
        if source not in self._counted and len(self._counted) >= _COUNTED:
            source = _OTHERS
        self._counted[source] += 1

    def taken(self, count: int) -> str:
        """Return so many refusals in words, "" if no client is known; and count anew."""
        counted, self._counted = self._counted, Counter()
        known = [(source, n) for source, n in counted.most_common() if source != _OTHERS]
        parts = [f"{n} {code} {client}" for (code, client), n in known[:_NAMED]]
        more = count - sum(n for _, n in known[:_NAMED])
        if parts and more > 0:
            parts.append(f"{more} others")
        return ", ".join(parts)
