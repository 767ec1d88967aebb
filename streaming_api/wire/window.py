"""Window: one deflate compressor for all clients who are sent the same bytes. Pure.

A back-reference counts bytes of what *this* client has inflated. So a compressor can be shared by
those whose inflated history since a common point is the same: the point at which it was made. When
that is no longer so (somebody joins, or is sent something compressed that the others are not) the
next message is a key frame: a new compressor, which refers to nothing older.
RFC 1951; RFC 7692 section 7.2.3.2 for WebSocket.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final

from streaming_api.wire.checksum import Checksum

_SMALL: Final = (5, -12, 5, 32 * 2**10)
"""Level, window bits (raw), memory level, bytes held: looks back 4 KiB. Tokens need no more.

Up to level 3, zlib finds only what begins where an earlier match began, and so now and then misses
that a message is nearly the one before.
"""
_LARGE: Final = (6, -15, 8, 256 * 2**10)
"""Looks back 32 KiB: used once something does not fit into the small one."""


class Window:
    """What its clients have been sent since the last key frame.

    Args:
        count: called with how many more bytes of memory are held here, or how many fewer.

    Attributes:
        spoiled: whether the next message must be a key frame.
        checksum: that of everything deflated here since it was made, where somebody needs it.
    """

    __slots__ = ("_compressor", "_count", "_held", "_settings", "checksum", "spoiled")

    def __init__(self, count: Callable[[int], None]) -> None:
        self.spoiled = True
        self._count = count
        self._held = 0
        self.checksum = Checksum()
        self._settings = _SMALL
        self._compressor: zlib._Compress | None = None

    def __del__(self) -> None:
        """Hold nothing any more."""
        self._count(-self._held)

    def deflate(self, plain: bytes) -> bytes:
        """Compress to blocks for every client, ended on a byte boundary by an empty stored one."""
        if len(plain) > 4096 and self._settings != _LARGE:  # compiled, a tuple has no identity
            self._settings = _LARGE
            self.spoiled = True
        compressor = self._compressor
        if compressor is None or self.spoiled:
            level, bits, memory, held = self._settings
            compressor = zlib.compressobj(level, zlib.DEFLATED, bits, memory)
            self._compressor = compressor
            self._count(held - self._held)
            self._held = held
            self.spoiled = False
        return compressor.compress(plain) + compressor.flush(zlib.Z_SYNC_FLUSH)
