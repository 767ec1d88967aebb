"""The live page and what belongs to it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import aiohttp_jinja2
from aiohttp import web

from streaming_api import __version__
from streaming_api.errors import NotFound
from streaming_api.ops.context import CONTEXT

_FILES: Final = {path.name: path for path in (Path(__file__).parent.parent / "static").iterdir()}
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy: labels, alerts and answers are hostile, and nothing inline runs."""


@aiohttp_jinja2.template("index.html")
async def page(request: web.Request) -> dict[str, object]:
    """GET /: the live page."""
    context = request.app[CONTEXT]
    return {
        "service": context.config.name,
        "version": __version__,
        "access": "open" if context.access.open else "keys",
    }


async def static(request: web.Request) -> web.FileResponse:
    """GET /static/{file}: the modules, style sheets and the icon of the page; nothing else."""
    path = _FILES.get(request.match_info["file"])
    if path is None:
        raise NotFound("The page has no such file.", "not_found")
    return web.FileResponse(path)


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """What a browser is told about the page and its files."""
    if response.content_type == "text/html":
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["Cache-Control"] = "no-cache"
    if request.path.startswith("/static/"):
        response.headers["Cache-Control"] = "no-cache"
