"""Evicted answers' names, remembered in one block of memory: they get 410 where others get 404.

Objects, however small, would outlive the answers beside which they were made, and CPython gives no
MiB back while one of them is in it. So a name is eight bytes of its hash here.
"""

from __future__ import annotations

from typing import Final

from streaming_api.answers.elsewhere import Key

_SIZE: Final = 8
"""Bytes of a hash. It is keyed per process, so nobody can make two that are equal."""
_FREE: Final = bytes(_SIZE)


class Evicted:
    """The names of the last answers that were evicted.

    Args:
        most: number of names; the oldest is forgotten for the next.
    """

    def __init__(self, most: int) -> None:
        self._hashes = bytearray(most * _SIZE)
        self._next = 0

    def __contains__(self, key: Key) -> bool:
        return self._find(_hashed(key)) >= 0

    def add(self, key: Key) -> None:
        """Remember a name."""
        self._hashes[self._next : self._next + _SIZE] = _hashed(key)
        self._next = (self._next + _SIZE) % len(self._hashes)

    def discard(self, key: Key) -> None:
        """Forget a name: there is an answer of that name again."""
        at = self._find(_hashed(key))
        if at >= 0:
            self._hashes[at : at + _SIZE] = _FREE

    def _find(self, hashed: bytes) -> int:
        """Return where a hash is, below zero if it is nowhere; 30 µs for 10,000 names."""
        at = self._hashes.find(hashed)
        while at % _SIZE and at >= 0:  # the end of one and the beginning of the next
            at = self._hashes.find(hashed, at + 1)
        return at


def _hashed(key: Key) -> bytes:
    return (hash(key) or 1).to_bytes(_SIZE, "little", signed=True)
