"""Tickets: issued and redeemed by this process, or by all of them over their store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streaming_api.access import audit

if TYPE_CHECKING:
    from streaming_api.access.client import Client
    from streaming_api.config import ApiKey
    from streaming_api.ops.context import Context


async def issue(context: Context, client: Client) -> str:
    """Return a new ticket, which every process accepts where the store can be reached.

    Raises:
        Forbidden, TooMany: as `Policy.issue_ticket`.
    """
    ticket = context.access.issue_ticket(client)
    audit.ticket_issued(client)
    if context.cluster is not None and await context.cluster.share_ticket(ticket, client.owner):
        context.access.redeem(ticket)  # the store's from here on: used once, on any process
    return ticket


async def redeem(context: Context, ticket: str) -> ApiKey | None:
    """Use a ticket up, and return the key that it was issued for.

    Raises:
        Unauthorized: the ticket is unknown, used or too old.
    """
    if context.cluster is not None:
        owner = await context.cluster.redeem_ticket(ticket)
        if owner is not None:
            return context.access.key_named(owner)
    return context.access.redeem(ticket)
