"""The contract for machines: the message's JSON Schema, OpenAPI and AsyncAPI. Open to everybody.

The documents are the files beside this one; a schema is written once and included in both. They
are built once, when this module is loaded; to answer a request costs no more than a look-up.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, cast

import attrs
import orjson
from aiohttp import ETag, hdrs, web

from streaming_api import __version__

Json = dict[str, object]
_FILES: Final = Path(__file__).parent


@attrs.frozen
class Document:
    """One JSON document, ready to send.

    Attributes:
        etag: changes with the content (RFC 9110 section 8.8.3).
    """

    body: bytes
    etag: ETag

    @classmethod
    def of(cls, content: Json) -> Document:
        """Return the document with this content."""
        body = orjson.dumps(content, option=orjson.OPT_INDENT_2)
        return cls(body, ETag(hashlib.sha256(body).hexdigest()[:16]))

    def answer(self, request: web.Request) -> web.Response:
        """Return the document, or 304 for a client that has it already."""
        known = request.if_none_match or ()
        unchanged = any(etag.value in {self.etag.value, "*"} for etag in known)
        if unchanged:
            response = web.Response(status=304)
        else:
            response = web.Response(body=self.body, content_type="application/json")
        response.etag = self.etag
        response.headers[hdrs.CACHE_CONTROL] = "no-cache"
        return response


def _read(name: str) -> Json:
    return cast("Json", orjson.loads((_FILES / name).read_bytes()))


def message_schema() -> Json:
    """Return the JSON Schema of every message that the server sends."""
    return _read("message.schema.json")


def openapi_document() -> Json:
    """Return the OpenAPI 3.1 document of every HTTP endpoint."""
    return _whole("openapi.json")


def asyncapi_document() -> Json:
    """Return the AsyncAPI 3.0 document of the WebSocket's paths."""
    return _whole("asyncapi.json")


def _whole(name: str) -> Json:
    """Read a document, and add what it shares with the other one: version and schemas."""
    document = _read(name)
    info = cast("Json", document["info"])
    components = cast("dict[str, Json]", document["components"])
    message = {name: value for name, value in message_schema().items() if name != "$schema"}
    info["version"] = __version__
    components["schemas"] = {
        "Message": message,
        **_read("components.json"),
        **components.get("schemas", {}),
    }
    return document


_MESSAGE: Final = Document.of(message_schema())
_OPENAPI: Final = Document.of(openapi_document())
_ASYNCAPI: Final = Document.of(asyncapi_document())


async def schema(request: web.Request) -> web.Response:
    """GET /streaming/schema: the JSON Schema of a message."""
    return _MESSAGE.answer(request)


async def openapi(request: web.Request) -> web.Response:
    """GET /streaming/openapi.json: every HTTP endpoint."""
    return _OPENAPI.answer(request)


async def asyncapi(request: web.Request) -> web.Response:
    """GET /streaming/asyncapi.json: the WebSocket, both paths."""
    return _ASYNCAPI.answer(request)
