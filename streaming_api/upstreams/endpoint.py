"""Where an upstream is and how a request to it reads; bytes only, no sockets.

An address is taken as OpenAI's clients take it: what its path says, with ``/chat/completions``
behind it; only an address without a path gets ``/v1`` first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

import attrs

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_CALLS: Final = (
    "/chat/completions", "/completions", "/models", "/responses", "/embeddings", "/messages",
)  # fmt: skip
"""Paths that people paste behind a base address."""
_FORBIDDEN_IN_HEADER: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@attrs.frozen
class Endpoint:
    """An OpenAI-compatible server.

    Attributes:
        host: name or address, an IPv6 address without brackets.
        base: path in front of "/chat/completions", "" or "/...".
        query: what comes after "?" in every request, "" for nothing.
    """

    tls: bool
    host: str
    port: int
    base: str
    query: str

    @classmethod
    def parse(cls, base_url: str) -> Endpoint:
        """Read ``http://h:8000``, ``http://h:8000/v1`` or ``https://h/openai/v1/chat/completions``.

        Raises:
            ValueError: with a sentence that says what is wrong with the address.
        """
        url = _split(base_url)
        if url.scheme not in _DEFAULT_PORTS or not url.hostname:
            raise ValueError(f"{base_url!r} is not an http:// or https:// address with a host.")
        if url.username is not None:
            raise ValueError("An address must not hold a password; set the API key instead.")
        return cls(
            tls=url.scheme == "https",
            host=url.hostname,
            port=url.port or _DEFAULT_PORTS[url.scheme],
            base=quote(_base(url.path), safe="/%:@!$&'()*+,;=~"),
            query=quote(url.query, safe="/%:@!$&'()*+,;=~?"),
        )

    @property
    def authority(self) -> str:
        """``host:port``, for people and for the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def address(self, path: str) -> str:
        """Return the address of `path`, for people; without the query, which may be secret."""
        return f"http{'s' if self.tls else ''}://{self.authority}{self.base}{path}"

    def request(
        self,
        method: str,
        path: str,
        *,
        accept: str,
        authorization: str | None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> bytes:
        """Build a whole HTTP/1.1 request (RFC 9112).

        Raises:
            ValueError: `authorization` could not stand in a header.
        """
        query = f"?{self.query}" if self.query else ""
        lines = [
            f"{method} {self.base}{path}{query} HTTP/1.1",
            f"Host: {self.authority}",
            f"Accept: {accept}",
            "Accept-Encoding: identity",
            "User-Agent: streaming-api",
        ]
        if authorization is not None:
            if _FORBIDDEN_IN_HEADER.search(authorization):
                raise ValueError("An Authorization header cannot hold control characters.")
            lines.append(f"Authorization: {authorization}")
        if headers is not None:
            lines += [f"{name}: {value}" for name, value in headers.items()]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        head = "\r\n".join([*lines, "", ""])
        return head.encode("utf-8", "surrogateescape") + body


def relayed_head(
    endpoint: Endpoint, method: str, path: str, query: str, headers: Iterable[tuple[str, str]]
) -> bytes:
    """Build the head of a request that is passed on.

    Args:
        endpoint: where the request goes.
        method: the client's.
        path: the client's, percent-encoded; what is under ``/v1`` is asked for under the base.
        query: the client's, without "?".
        headers: the headers that follow Host.

    Raises:
        ValueError: a header holds control characters.
    """
    if path.startswith("/v1/"):
        target = endpoint.base + path.removeprefix("/v1")
    else:
        target = endpoint.base.removesuffix("/v1") + path
    query = "&".join(filter(None, (query, endpoint.query)))
    lines = [f"{method} {target}{'?' if query else ''}{query} HTTP/1.1"]
    for name, value in (("Host", endpoint.authority), *headers):
        if _FORBIDDEN_IN_HEADER.search(value):
            raise ValueError(f"The header {name} cannot hold control characters.")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")


def _base(path: str) -> str:
    """Return an address's path without what is put behind it; ``/v1`` where there is none."""
    path = path.rstrip("/")
    if not path:
        return "/v1"
    for call in _CALLS:
        if path.endswith(call):
            return path.removesuffix(call).rstrip("/")
    return path


def _split(base_url: str) -> SplitResult:
    if re.search(r"[\x00-\x20\x7f]", base_url):
        raise ValueError(f"{base_url!r} is not an address: it holds spaces or control characters.")
    try:
        url = urlsplit(base_url)
        has_port_zero = url.port == 0
        if url.hostname:
            url.hostname.encode("ascii" if ":" in url.hostname else "idna")
    except ValueError as exc:
        raise ValueError(f"{base_url!r} is not an address: {exc}.") from exc
    if has_port_zero:
        raise ValueError(f"{base_url!r} is not an address: nobody listens on port 0.")
    return url
