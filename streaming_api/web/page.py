"""The live page and what belongs to it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import mimetypes
import re
from pathlib import Path
from typing import Final

import aiohttp_jinja2
import attrs
from aiohttp import hdrs, web
from markupsafe import Markup

from streaming_api import __version__
from streaming_api.errors import NotFound
from streaming_api.ops.context import CONTEXT
from streaming_api.web.first_screen import compact, without_comments
from streaming_api.web.status import snapshot_of


@attrs.frozen
class _File:
    """A file of the page, plain and compressed."""

    path: Path
    body: bytes
    compressed: bytes
    media_type: str


def _read(path: Path) -> _File:
    body = without_comments(path.read_bytes())
    media_type = mimetypes.types_map.get(path.suffix, "application/octet-stream")
    return _File(path, body, gzip.compress(body, 9, mtime=0), media_type)


_FOLDER: Final = Path(__file__).parent.parent / "static"
_FILES: Final = {path.name: _read(path) for path in sorted(_FOLDER.iterdir()) if path.is_file()}
_EDITION: Final = hashlib.sha256(b"".join(file.body for file in _FILES.values())).hexdigest()[:16]
"""Changes with any of the files; it is in their path, so that they may be cached for ever."""
_FIRST: Final = (
    "main", "state", "dom", "format", "charts", "plot", "verdict", "connection", "alerts", "events",
)  # fmt: skip
"""The modules of the first screen, named before the browser has read one; six draw the charts."""
_STYLE: Final = _FILES["page.css"].body.decode()
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY: Final = (
    f"default-src 'none'; script-src 'self'; style-src 'self' 'sha256-{_STYLE_HASH}';"
    " img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy: labels, alerts and answers are hostile, and no script is inline."""
_REFUSED: Final = re.compile(r"q=0(\.0*)?")
_FOR_EVER: Final = "public, max-age=31536000, immutable"


async def page(request: web.Request) -> web.StreamResponse:
    """GET /: the live page, with what it needs to draw its first screen at once.

    Where keys are configured the document holds no data: everybody may read it.
    """
    context = request.app[CONTEXT]
    first = b"null"
    if context.access.open:
        first = compact(snapshot_of(request, ("alerts", "status", "history")))
    values = {
        "service": context.config.name,
        "version": __version__,
        "access": "open" if context.access.open else "keys",
        "edition": _EDITION,
        "modules": _FIRST,
        "style": Markup(_STYLE),  # noqa: S704 (a file of ours)
        "first": Markup(_in_script(first)),  # noqa: S704 (JSON; nothing in it ends a script)
    }
    response = aiohttp_jinja2.render_template("index.html", request, values)
    response.enable_compression()
    return response


def _in_script(document: bytes) -> str:
    """Return JSON that may stand in a script element: no text without a ``<`` can end that."""
    return document.decode().replace("<", "\\u003c")


async def static(request: web.Request) -> web.StreamResponse:
    """GET /static/{file} or /static/{edition}/{file}: the files of the page, and nothing else."""
    file = _FILES.get(request.match_info["file"])
    if file is None:
        raise NotFound("The page has no such file.", "not_found")
    current = request.match_info.get("edition") == _EDITION
    headers = {"Cache-Control": _FOR_EVER if current else "no-cache", "Vary": "Accept-Encoding"}
    plain = hdrs.RANGE in request.headers or any(name.startswith("If-") for name in request.headers)
    if plain or not _takes_gzip(request):
        return web.FileResponse(file.path, headers=headers)
    headers[hdrs.CONTENT_ENCODING] = "gzip"
    return web.Response(body=file.compressed, content_type=file.media_type, headers=headers)


def _takes_gzip(request: web.Request) -> bool:
    """Whether the client accepts gzip (RFC 9110 section 12.5.3, as far as gzip goes)."""
    for coding in request.headers.get(hdrs.ACCEPT_ENCODING, "").lower().split(","):
        name, _, weight = coding.partition(";")
        if name.strip() == "gzip":
            return not _REFUSED.fullmatch(weight.strip())
    return False


async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Add the headers of the page and its files."""
    if response.content_type == "text/html":
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["Cache-Control"] = "no-store"
