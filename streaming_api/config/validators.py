"""Rules for single settings that a type and a range cannot say; each returns the value, tidied.

A check raises `Unfit` with what would be right. They look at the file system where a file must be
there, and never at the network.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from urllib.parse import urlsplit

from streaming_api.config.converters import Unfit

HOST_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*")


def one_line(text: str) -> str:
    """Accept text of 1 to 200 printable characters."""
    if not text.strip() or not text.isprintable() or len(text) > 200:
        raise Unfit(text, "one line of 1 to 200 printable characters")
    return text


def header_token(text: str) -> str:
    """Accept a credential that an HTTP header can hold: visible ASCII without blanks."""
    if not re.fullmatch(r"[!-~]+", text):
        raise Unfit(text, "the key itself: visible ASCII characters without blanks")
    return text


def endpoint(url: str) -> str:
    """Accept an http or https URL with a host and without credentials, query or fragment."""
    return _url(url, refused="blanks, query or fragment")


def gateway(url: str) -> str:
    """Accept an http or https URL as `endpoint` does; a query is sent with every request."""
    address, mark, query = url.partition("?")
    return _url(address, query, refused="blanks or fragment") + mark + query


def _url(url: str, query: str = "", *, refused: str) -> str:
    needs = "a URL such as http://127.0.0.1:8000"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        needs = f"{needs} (its host or port cannot be read)"
        raise Unfit(url, needs, secret="@" in url) from None
    if "@" in url:  # even where urlsplit finds no user name: no password may reach a message
        raise Unfit(url, f"{needs} without user name and password in it", secret=True)
    if parts.scheme not in {"http", "https"}:
        raise Unfit(url, f"{needs} (http or https)")
    if not _is_host(parts.hostname or "") or port == 0:
        raise Unfit(url, f"{needs} with a host")
    if "?" in url or "#" in url + query or not re.fullmatch(r"[!-~]+", url + query):
        raise Unfit(url, f"{needs} without {refused}")
    return url.rstrip("/")


def store_url(url: str) -> str:
    """Accept the URL of a Redis or Valkey; it may hold a password and is never shown."""
    needs = "redis://HOST:PORT, rediss://HOST:PORT or unix:///PATH"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise Unfit(url, needs, secret=True) from None
    address = parts.path if parts.scheme == "unix" else parts.hostname
    if parts.scheme not in {"redis", "rediss", "unix"} or not address:
        raise Unfit(url, needs, secret=True)
    return url


def key_prefix(text: str) -> str:
    """Accept a prefix for the names of keys in the store."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", text):
        raise Unfit(text, "1 to 64 letters, digits, dots, dashes and underscores")
    return text


def host_to_bind(host: str) -> str:
    """Accept an address or a host name to listen on."""
    if not _is_host(host.lower()):
        raise Unfit(host, "an address or a host name, such as 127.0.0.1 or 0.0.0.0")
    return host


def origins(entries: tuple[str, ...]) -> tuple[str, ...]:
    """Accept origins as browsers send them (RFC 6454, section 6.2); return them in lower case."""
    return tuple(_origin(entry) for entry in entries)


def host_names(entries: tuple[str, ...]) -> tuple[str, ...]:
    """Accept host names or addresses without port; return them in lower case, without brackets."""
    return tuple(_host_name(entry) for entry in entries)


def paths(entries: tuple[str, ...]) -> tuple[str, ...]:
    """Accept request paths, percent-encoded; ``*`` at the end stands for any rest."""
    for entry in entries:
        if not re.fullmatch(r"/[A-Za-z0-9._~%/-]*\*?", entry) or "//" in entry:
            raise Unfit(entry, "a path like /v1/embeddings or /v1/audio/*")
    return entries


def header_names(entries: tuple[str, ...]) -> tuple[str, ...]:
    """Accept names of headers (RFC 9110, section 5.1); ``*`` at the end stands for any rest."""
    for entry in entries:
        if not re.fullmatch(r"(?=.)[A-Za-z0-9!#$%&'+.^_`|~-]*\*?", entry):
            raise Unfit(entry, "the name of a header like X-Title or x-ratelimit-*")
    return entries


def model(choice: str) -> str:
    """Accept ``auto``, ``none`` or the path of a .gguf file that exists."""
    if choice in {"auto", "none"}:
        return choice
    try:
        path = Path(choice).expanduser()
    except (RuntimeError, ValueError):  # "~user" of an unknown user; a NUL in the name
        path = Path(choice)
    if path.suffix.lower() != ".gguf":
        raise Unfit(choice, "auto, none or the path of a .gguf file")
    if not _is_file(path):
        raise Unfit(choice, "a .gguf file that exists (there is none at this path)")
    return str(path)


def existing_file(path: Path) -> Path:
    """Accept the path of a file that exists."""
    if not _is_file(path):
        raise Unfit(str(path), "the path of a file that exists (there is none at this path)")
    return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # the path is too long, not searchable, or holds a NUL
        return False


def _origin(entry: str) -> str:
    needs = "an origin: scheme://host or scheme://host:port, such as https://chat.example.org"
    entry = entry.lower()
    try:
        parts = urlsplit(entry)
        port = parts.port
    except ValueError:
        raise Unfit(entry, needs) from None
    whole = parts.scheme in {"http", "https"} and entry == f"{parts.scheme}://{parts.netloc}"
    if not whole or "@" in parts.netloc or port == 0 or not _is_host(parts.hostname or ""):
        raise Unfit(entry, needs)
    return entry


def _host_name(entry: str) -> str:
    name = entry.lower().removeprefix("[").removesuffix("]")
    if not _is_host(name):
        raise Unfit(entry, "a host name or address without port, such as chat.example.org")
    return name


def _is_host(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return HOST_NAME.fullmatch(name) is not None
    return True
