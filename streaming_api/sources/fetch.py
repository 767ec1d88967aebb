"""One bounded HTTP request, every failure of which is a SourceError; knows no source."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus

import aiohttp
import attrs
import orjson

from streaming_api.sources.values import FaultCode, SourceError
from streaming_api.text import one_line

TIMEOUT = 10.0
"""Seconds that a whole exchange may take, from connecting to the last byte."""

MAX_JSON_BYTES = 4 * 2**20

_MARKUP = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)


@attrs.frozen
class Reply:
    """A complete answer with a 2xx status.

    Attributes:
        url: Where it came from, without credentials or query.
        content_type: The media type in lower case, without parameters; may be empty.
        body: At most the bytes that were allowed.
    """

    url: str
    content_type: str
    body: bytes


class StatusError(SourceError):
    """A 4xx or 5xx reply.

    Attributes:
        status: The HTTP status.
        body: At most the bytes that were allowed.
    """

    def __init__(self, reason: str, status: int, body: bytes) -> None:
        super().__init__(reason, "status")
        self.status = status
        self.body = body


def open_session() -> aiohttp.ClientSession:
    """Return a session as the sources need it: no cookies, no proxy from the environment.

    The caller owns it and closes it. Its connector's limit is above what the sources use at once.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=32),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


async def fetch(
    session: aiohttp.ClientSession,
    url: str,
    *,
    max_bytes: int,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    seconds: float = TIMEOUT,
) -> Reply:
    """GET the URL, or POST the form, and read the whole answer.

    Redirects are not followed. The answer is asked for uncompressed; compressed or not, what
    counts against `max_bytes` is the size after decompression.

    Raises:
        SourceError: There is no complete 2xx answer, for whatever reason.
    """
    where = _shown(url)
    try:
        async with session.request(
            "GET" if form is None else "POST",
            url,
            data=form,
            headers={"Accept-Encoding": "identity", **(headers or {})},
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=seconds),
        ) as response:
            if HTTPStatus.MULTIPLE_CHOICES <= response.status < HTTPStatus.BAD_REQUEST:
                raise _redirected(where, response)
            body = await _read(response, where, max_bytes)
            if not response.ok:
                raise _refusal(where, response, body)
            content_type = response.headers.get("Content-Type", "")
            return Reply(where, content_type.partition(";")[0].strip().lower(), body)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        raise _failure(where, error, seconds) from error


def parse_json(reply: Reply, what: str) -> object:
    """Return the JSON of a reply.

    Raises:
        SourceError: It is not JSON; `what` names what should be at that address.
    """
    try:
        return orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        saw = describe(reply.content_type, reply.body)
        reason = f"{reply.url} served {saw}, not JSON: check that {what} is at this address."
        raise SourceError(reason, "format") from None


def describe(content_type: str, body: bytes) -> str:
    """Say in a few words what a body is, for a message about a wrong one."""
    if not body:
        return "an empty answer"
    start = body[:200].lstrip().lower()
    if content_type == "text/html" or start.startswith((b"<!doctype", b"<html")):
        return "a web page (HTML)"
    excerpt = one_line(body[:200].decode(errors="replace"), 60)
    return f"{one_line(content_type, 60) or 'an answer of no type'} that begins with {excerpt!r}"


async def _read(response: aiohttp.ClientResponse, where: str, max_bytes: int) -> bytes:
    """Read the body; abandon it at once if it is, or declares itself, too large."""
    pieces: list[bytes] = []
    size = response.content_length or 0
    if size <= max_bytes:
        size = 0
        async for piece in response.content.iter_any():
            size += len(piece)
            if size > max_bytes:
                break
            pieces.append(piece)
    if size > max_bytes:
        response.close()
        reason = (
            f"{where} sends more than {max_bytes // 2**20} MiB:"
            " check that it is the right address, or have it serve less."
        )
        raise SourceError(reason, "too_large")
    return b"".join(pieces)


def _redirected(where: str, response: aiohttp.ClientResponse) -> SourceError:
    response.close()
    target = one_line(response.headers.get("Location", "nowhere"), 200)
    reason = (
        f"{where} redirects ({response.status}) to {target}, which is not followed:"
        " if that is the right address, configure it."
    )
    return SourceError(reason, "redirect")


def _refusal(where: str, response: aiohttp.ClientResponse, body: bytes) -> StatusError:
    """Return a 4xx or 5xx in the peer's own words."""
    words = _own_words(body) or one_line(response.reason or "", 100)
    hint = {
        401: "check its credentials",
        403: "check its access rules",
        404: "check the path of the configured address",
    }.get(response.status, "look at its log")
    said = f": {words}" if words else ""
    reason = f"{where} answered {response.status}{said} ({hint})."
    return StatusError(reason, response.status, body)


def _own_words(body: bytes) -> str:
    """Return the message in an error body: JSON of the usual shapes, or text without its tags."""
    try:
        parsed: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        text = body[:4096].decode(errors="replace")
        return one_line(_MARKUP.sub(" ", text))
    if isinstance(parsed, dict):
        parsed = parsed.get("error") or parsed.get("message") or parsed.get("detail")
    if isinstance(parsed, dict):
        parsed = parsed.get("message")
    return one_line(parsed) if isinstance(parsed, str) else ""


def _failure(where: str, error: Exception, seconds: float) -> SourceError:
    """Explain a failed exchange: what it means, and what to check."""
    code: FaultCode
    match error:
        case TimeoutError():
            code = "timeout"
            reason = (
                f"no complete answer from {where} within {seconds:g} s:"
                " check that it is up, reachable and not overloaded."
            )
        case aiohttp.ClientConnectorDNSError():
            code = "dns"
            reason = f"the host of {where} is not found: check the name, and this machine's DNS."
        case aiohttp.ClientSSLError():
            code = "tls"
            reason = (
                f"no trusted TLS connection to {where} ({one_line(str(error), 200)}):"
                " check the certificate, and whether it speaks https at all."
            )
        case aiohttp.ClientConnectorError() if isinstance(error.os_error, ConnectionRefusedError):
            code = "refused"
            reason = f"{where} refuses connections: check that it runs, and its address and port."
        case aiohttp.ClientConnectorError():
            code = "unreachable"
            cause = one_line(error.os_error.strerror or str(error.os_error), 200)
            reason = f"{where} cannot be reached ({cause}): check address, network and firewall."
        case aiohttp.InvalidURL() | ValueError():
            code = "format"
            cause = one_line(str(error), 100)
            reason = f"{where} cannot be asked ({cause}): check its address and headers."
        case aiohttp.ClientResponseError():
            code = "format"
            cause = one_line(error.message, 200)
            reason = f"{where} does not speak HTTP ({cause}): check address and port."
        case _:
            code = "disconnected"
            reason = (
                f"the connection to {where} broke before the answer was complete:"
                " check its log, and any proxy between."
            )
    return SourceError(reason, code)


def _shown(url: str) -> str:
    """Return the URL for messages: one line, no credentials, no query."""
    return one_line(re.sub(r"//[^/@]*@", "//", url).partition("?")[0], 200)
