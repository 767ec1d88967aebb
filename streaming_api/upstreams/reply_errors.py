"""What went wrong upstream, in OpenAI's shape, read out of whatever it sent; no sockets."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import attrs
import orjson

from streaming_api.text import one_line

MAX_MESSAGE: Final = 4_000  # characters of an upstream's own message that are passed on
MAX_PAGE_TEXT: Final = 300  # characters of a page or plain text that are quoted
MAX_FIELDS: Final = 16_384  # bytes of an upstream's error object that is passed on whole
MAX_PAGE: Final = 16_384  # characters of a page that are looked at
_ERRORS: Final = frozenset(str(status) for status in range(400, 600))


@attrs.frozen
class UpstreamFault:
    """An upstream's fault or refusal.

    Attributes:
        status: the upstream's own HTTP status, if it gave one.
        type: OpenAI's `error.type`; the upstream's own, or "upstream_error".
        code: a stable word for programs; the upstream's own, or one that starts with "upstream_".
        message: a sentence for a person; the upstream's own words where it had any.
        param: the offending parameter, if the upstream named one.
        retry_after: seconds after which trying again makes sense, if the upstream said so.
        fields: the upstream's own error object as it was, `innererror` and all, for OpenAI's wire.
    """

    status: int | None
    type: str
    code: str | None
    message: str
    param: str | None = None
    retry_after: int | None = None
    fields: Mapping[str, object] = attrs.field(factory=dict, repr=False)


class UpstreamError(Exception):
    """An `UpstreamFault`, raised where a call cannot return it."""

    def __init__(self, error: UpstreamFault) -> None:
        super().__init__(error)
        self.error = error

    def __str__(self) -> str:
        return self.error.message


def fault(code: str, message: str, *, status: int | None = None) -> UpstreamFault:
    """Put an error into our own words, because the upstream broke the protocol."""
    return UpstreamFault(status=status, type="upstream_error", code=code, message=message)


def at_address(error: UpstreamFault, address: str) -> UpstreamFault:
    """Add the address that was asked to a refusal that may mean that it is the wrong one."""
    if error.status not in {404, 405}:
        return error
    return attrs.evolve(error, message=f"{error.message} (The address asked: {address})")


def error_of_object(reply: object, status: int | None = None) -> UpstreamFault | None:
    """Read an error out of a decoded JSON reply, or return None where there is none.

    Knows ``{"error": {...}}`` (OpenAI), the same in a list (Google), ``{"error": "text"}`` (Ollama,
    TGI), ``{"detail": ...}`` (FastAPI), ``{"object": "error", "message": ...}`` (older vLLM) and
    others that are an error themselves (`is_bare_error`).
    """
    if isinstance(reply, list) and len(reply) == 1:
        reply = reply[0]
    if not isinstance(reply, dict):
        return None
    error = reply.get("error")
    if isinstance(error, dict):
        return attrs.evolve(_error_of_fields(error, status), fields=_bounded(error))
    if error:
        kind = _text(reply.get("error_type")) or "upstream_error"
        return UpstreamFault(status, kind, _text(reply.get("code")), _sentence(error))
    if reply.get("detail"):
        return UpstreamFault(status, "upstream_error", None, _detail(reply["detail"]))
    if is_bare_error(reply) or (status is not None and reply.get("message")):
        return _error_of_fields(reply, status)
    return None


def is_bare_error(reply: Mapping[str, object]) -> bool:
    """Return whether an object without choices is itself an error: called so, or numbered as one.

    For example ``{"code": 500, "message": ...}`` or ``{"type": "server_error", "message": ...}``.
    """
    if reply.get("object") == "error":
        return True
    names = ("code", "type", "status")
    return isinstance(reply.get("message"), str) and any(_is_of_error(reply.get(n)) for n in names)


def _is_of_error(value: object) -> bool:
    """Return whether a code, a type or a status is that of an error."""
    if isinstance(value, str):
        return "error" in value.lower() or value in _ERRORS
    return isinstance(value, int) and str(value) in _ERRORS


def error_of_reply(status: int, content_type: str, body: bytes) -> UpstreamFault:
    """Read an error out of an HTTP reply whose status is 400 or above.

    Args:
        status: the reply's.
        content_type: the media type alone, "" if there was none.
        body: as much of it as came; it may be cut.
    """
    try:
        error = error_of_object(orjson.loads(body), status)
    except orjson.JSONDecodeError:
        error = None
    if error is not None:
        return error
    return fault("upstream_http_error", _describe(status, content_type, body), status=status)


def illegible(status: int, coding: str) -> UpstreamFault:
    """Return the error of a reply whose body cannot be read: it is compressed in a way unasked."""
    words = f"{_answered(status)} with a body compressed as {coding}, which it was not asked for."
    return fault("upstream_http_error", words, status=status)


def _error_of_fields(fields: dict[str, object], status: int | None) -> UpstreamFault:
    words = fields.get("message")
    return UpstreamFault(
        status=status,
        type=_text(fields.get("type")) or "upstream_error",
        code=_text(fields.get("code")),
        message=_sentence(words or fields),
        param=_text(fields.get("param")),
    )


def _bounded(fields: dict[str, object]) -> dict[str, object]:
    try:
        return fields if len(orjson.dumps(fields)) <= MAX_FIELDS else {}
    except orjson.JSONEncodeError:  # nested deeper than orjson writes
        return {}


def _text(value: object) -> str | None:
    return None if value is None else _message(value)


def _message(value: object) -> str:
    if isinstance(value, str):
        words = value
    else:
        try:
            words = orjson.dumps(value).decode()
        except orjson.JSONEncodeError:  # nested deeper than orjson writes
            words = "The upstream's error cannot be shown."
    return words if len(words) <= MAX_MESSAGE else words[:MAX_MESSAGE] + "…"


def _sentence(value: object) -> str:
    """Return the upstream's words, or ours where it sent none."""
    words = _message(value)
    return words if words.strip() else "The upstream refused and said nothing more."


def _detail(detail: object) -> str:
    """Read FastAPI's `detail`: a text, or a list of ``{"loc": [...], "msg": "..."}``."""
    if not isinstance(detail, list):
        return _sentence(detail)
    return _sentence("; ".join(_problem(item) for item in detail))


def _problem(item: object) -> str:
    if not isinstance(item, dict) or "msg" not in item:
        return _message(item)
    where = item.get("loc")
    path = ".".join(_message(part) for part in where) if isinstance(where, list) else "body"
    return f"{path}: {_message(item['msg'])}"


def _describe(status: int, content_type: str, body: bytes) -> str:
    answered = _answered(status)
    raw = body.decode("utf-8", "replace")[:MAX_PAGE]
    is_page = "html" in content_type or raw.lstrip()[:1] == "<"
    text = _page_text(raw) if is_page else one_line(raw, None)
    if not text:
        return f"{answered} and said nothing more."
    kind = "an HTML page" if is_page else "text"
    quoted = text if len(text) <= MAX_PAGE_TEXT else text[:MAX_PAGE_TEXT] + "…"
    return f"{answered} with {kind} instead of a JSON error. Its text: {quoted}"


def _answered(status: int) -> str:
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
    return f"The upstream answered {status} {phrase}".rstrip()


def _page_text(page: str) -> str:
    for element in ("script", "style"):
        page = _without(element, page)
    return one_line(html.unescape(re.sub(r"<[^<>]*>", " ", page)), None)


def _without(element: str, page: str) -> str:
    """Cut out an element's content, in linear time: a page may be made to be slow."""
    opening, closing = (re.compile(rf"{tag}{element}\b", re.IGNORECASE) for tag in ("<", "</"))
    kept, position = [], 0
    while (start := opening.search(page, position)) is not None:
        kept.append(page[position : start.start()])
        end = closing.search(page, start.end())
        if end is None:
            return " ".join(kept)
        position = end.start()
    return " ".join([*kept, page[position:]])
