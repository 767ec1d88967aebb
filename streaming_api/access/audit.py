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
"""Addresses that a line about refused credentials names."""
_COUNTED: Final = 1_000
"""Addresses that are counted between two such lines; the others are counted together."""
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


class RefusedCredentials:
    """Credentials that were refused since the last line about them: why, and from where."""

    def __init__(self) -> None:
        self._counted: Counter[tuple[str, str]] = Counter()

    def add(self, code: str, address: str) -> None:
        """Count a refusal.

        Args:
            code: the error's.
            address: the client's.
        """
        source = (code, network_of(address))
        if source not in self._counted and len(self._counted) >= _COUNTED:
            source = _OTHERS
        self._counted[source] += 1

    def log(self, count: int) -> None:
        """Write the line, and count anew."""
        counted, self._counted = self._counted, Counter()
        known = [(source, n) for source, n in counted.most_common() if source != _OTHERS]
        parts = [f"{n} {code} from {address}" for (code, address), n in known[:_NAMED]]
        more = count - sum(n for _, n in known[:_NAMED])
        if more > 0:
            parts.append(f"{more} others")
        logger.warning("refused %d times: a credential (%s)", count, ", ".join(parts))
