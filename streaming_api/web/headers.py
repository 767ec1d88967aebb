"""Headers of every response: what a browser may do, and CORS for the pages of allowed origins.

CORS follows the Fetch standard: a page of an origin in ``allowed_origins`` may read every response,
errors included, but without the browser's credentials (cookies); it sends its key itself. Pages of
other origins are sent no CORS headers, and the guard refuses them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import hdrs

from streaming_api.ops.context import CLIENT, CONTEXT

if TYPE_CHECKING:
    from aiohttp import web

COMMON: Final[dict[str, str]] = {
    hdrs.SERVER: "streaming-api",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""Headers of every response, even of the reply to bytes that are not HTTP."""
_EXPOSED: Final = (
    "X-Request-Id, Retry-After, retry-after-ms, x-should-retry, "
    "Location, ETag, Allow, WWW-Authenticate, "
    "x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-limit-tokens, "
    "x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, *"
)
"""The star is for what a gateway sends beside these; browsers before 2022 know no star."""
_PREFLIGHT: Final[dict[str, str]] = {
    # "*" stands for every header except this one (Fetch standard, section 3.3.4).
    hdrs.ACCESS_CONTROL_ALLOW_HEADERS: "*, Authorization",
    hdrs.ACCESS_CONTROL_MAX_AGE: "600",
}


def headers_for(request: web.Request) -> dict[str, str]:
    """Return the headers that every response to this request has."""
    context = request.app[CONTEXT]
    access = context.access
    client = request.get(CLIENT)
    limits = {} if client is None else context.answers.rate_limit_headers(client)
    if not access.has_origins:
        return {**COMMON, **limits} if limits else COMMON
    headers = {**COMMON, **limits, hdrs.VARY: hdrs.ORIGIN}
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None and access.is_allowed_origin(origin):
        headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _EXPOSED
    return headers


def head_lines(request: web.Request) -> str:
    """Return the same headers as lines of a head that we write ourselves."""
    return "".join(f"{name}: {value}\r\n" for name, value in headers_for(request).items())


def is_preflight(request: web.Request) -> bool:
    """Whether a browser asks if a page may send a request (Fetch standard, section 3.3.2)."""
    asks = hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    return asks and request.method == hdrs.METH_OPTIONS


def preflight(request: web.Request, allowed: set[str]) -> dict[str, str]:
    """Return the further headers of a reply to OPTIONS; ``allowed``: the methods of the path.

    A page may send any method: only then can it read why that one is refused.
    """
    headers: dict[str, str] = {hdrs.ALLOW: ", ".join(sorted(allowed))} if allowed else {}
    if is_preflight(request):
        asked = {request.headers[hdrs.ACCESS_CONTROL_REQUEST_METHOD]} & hdrs.METH_ALL
        methods = ", ".join(sorted(allowed | asked))
        headers |= {hdrs.ACCESS_CONTROL_ALLOW_METHODS: methods, **_PREFLIGHT}
    return headers


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add these headers to a response that aiohttp sends."""
    if request.app[CONTEXT].manager.leaving and response.status != 101:
        response.force_close()  # so that a proxy's next request goes to another server
        response.headers[hdrs.CONNECTION] = "close"
    varies = response.headers.get(hdrs.VARY)
    response.headers.update(headers_for(request))
    if varies is not None and response.headers[hdrs.VARY] != varies:
        response.headers[hdrs.VARY] = f"{varies}, {response.headers[hdrs.VARY]}"
