"""Inflates a reply that is compressed although it was asked not to be, within a bound; pure."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Final

ENCODINGS: Final = frozenset({"gzip", "x-gzip", "deflate"})
MAX_MEMBERS: Final = 64
"""Gzip members of one body (RFC 1952); one is usual, and empty ones cost time for nothing."""
_GZIP: Final = b"\x1f\x8b"


def coding_of(headers: Mapping[str, str]) -> str:
    """Return the content coding of a body (RFC 9110, section 8.4.1), "" if there is none.

    Args:
        headers: by their names in lower case.
    """
    if "content-encoding" not in headers:
        return ""
    codings = [each.strip().lower() for each in headers["content-encoding"].split(",")]
    return ", ".join(coding for coding in codings if coding not in {"", "identity"})


class Inflater:
    """The content of one body, piece by piece.

    Attributes:
        overflowed: whether a piece held more than the limit; the excess is lost.
    """

    def __init__(self, encoding: str, limit: int) -> None:
        """Begin a body.

        Args:
            encoding: one of `ENCODINGS`.
            limit: decompressed bytes that one piece may hold.
        """
        self.overflowed = False
        self._is_gzip = encoding != "deflate"
        self._limit = limit
        self._members = 0
        self._inflate: zlib._Decompress | None = None

    @property
    def is_cut(self) -> bool:
        """Whether what has come so far has not reached an end of its own."""
        return self._inflate is not None and not self._inflate.eof

    def feed(self, data: bytes) -> bytes:
        """Return the content of the next piece, at most the limit.

        Raises:
            ValueError: it is not compressed in the way that was declared.
        """
        inflated = b""
        while data:
            if self._inflate is None:
                self._inflate = self._begin(data)
            try:
                inflated += self._inflate.decompress(data, self._limit - len(inflated) + 1)
            except zlib.error as exc:
                raise ValueError(str(exc)) from None
            if len(inflated) > self._limit:
                self.overflowed = True
                return inflated[: self._limit]
            if not self._inflate.eof:
                break
            data = self._inflate.unused_data
            if not self._is_gzip or not data.startswith(_GZIP):
                break  # padding, which gzip itself accepts
            self._inflate = None
        return inflated

    def _begin(self, data: bytes) -> zlib._Decompress:
        """Choose the format: RFC 9110's "deflate" is zlib's; some servers omit its head."""
        self._members += 1
        if self._members > MAX_MEMBERS:
            message = "too many members"
            raise ValueError(message)
        if self._is_gzip:
            return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        has_head = data[0] & 0x8F == zlib.DEFLATED
        return zlib.decompressobj(wbits=zlib.MAX_WBITS if has_head else -zlib.MAX_WBITS)
