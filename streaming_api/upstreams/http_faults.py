"""Words for replies that are wrong as HTTP, before anybody looks for a chat answer in them."""

from __future__ import annotations

from urllib.parse import urlsplit

import attrs

from streaming_api.upstreams.answer import invalid
from streaming_api.upstreams.http1 import Head, ResponseEnd
from streaming_api.upstreams.reply_errors import UpstreamFault, fault


def redirected(head: Head) -> UpstreamFault:
    """Return the fault of a reply that redirects (3xx)."""
    target = _without_secrets(head.headers.get("location", "")[:2000])
    return fault(
        "upstream_redirect",
        f"The upstream answered {head.status} and points to {target or 'nowhere'}. Redirects are "
        "not followed: set the gateway endpoint to the address that answers itself.",
        status=head.status,
    )


def wrong_type(head: Head, expected: str) -> UpstreamFault:
    """Return the fault of a reply whose type is not `expected`."""
    kind = head.content_type[:80] or "no type"
    return attrs.evolve(
        invalid(f"a reply of type {kind!r} where {expected} was expected"), status=head.status
    )


def broken(outcome: ResponseEnd, detail: str) -> UpstreamFault:
    """Return the fault of a response that did not reach its end."""
    if outcome is ResponseEnd.SILENT:
        return fault("upstream_timeout", f"The upstream fell silent: {detail}.")
    if outcome is ResponseEnd.HEAD_TOO_LARGE:
        return fault("upstream_headers_too_large", f"The upstream sent {detail}.")
    if outcome is ResponseEnd.MALFORMED:
        return invalid(f"something that is not HTTP/1.1 ({detail})")
    return fault("upstream_disconnected", f"The connection to the upstream broke: {detail}.")


def _without_secrets(location: str) -> str:
    """Return an address without user, password, query and fragment."""
    try:
        url = urlsplit(location)
    except ValueError:
        return "an address that cannot be read"
    return url._replace(netloc=url.netloc.rpartition("@")[2], query="", fragment="").geturl()
