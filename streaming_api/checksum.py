"""Checksum: CRC-32 and length, as gzip ends with them, that can be joined and cut apart. Pure.

Viewers of one group are sent the same bytes, so these are summed up once for all of them. What a
connection was sent is then a cut out of that, joined to what it was sent before: the arithmetic of
zlib's ``crc32_combine``, which Python's zlib does not offer.
"""

from __future__ import annotations

import zlib
from typing import Final, NamedTuple

_POLYNOMIAL: Final = 0xEDB88320
"""RFC 1952 section 8: of CRC-32, without its leading term, the lowest power in the highest bit."""
_ONE: Final = 1 << 31
_ONE_BYTE: Final = _ONE >> 8


class Checksum(NamedTuple):
    """Of so many bytes."""

    crc: int = 0
    size: int = 0

    def add(self, data: bytes) -> Checksum:
        """With these bytes behind."""
        return Checksum(zlib.crc32(data, self.crc), self.size + len(data))

    def join(self, other: Checksum) -> Checksum:
        """With what ``other`` is of behind."""
        return Checksum(_shifted(self.crc, other.size) ^ other.crc, self.size + other.size)

    def since(self, start: Checksum) -> Checksum:
        """Without the bytes that ``start`` is of, with which these begin."""
        size = self.size - start.size
        return Checksum(self.crc ^ _shifted(start.crc, size), size)


def _shifted(crc: int, size: int) -> int:
    """A checksum moved over so many bytes: multiplied by x to the power of eight times that."""
    power, base = _ONE, _ONE_BYTE
    while size:
        if size & 1:
            power = _product(power, base)
        base = _product(base, base)
        size >>= 1
    return _product(power, crc)


def _product(one: int, other: int) -> int:
    """Of two polynomials over GF(2), modulo the one of CRC-32."""
    product = 0
    while one:
        if one & _ONE:
            product ^= other
        one = (one << 1) & 0xFFFFFFFF
        other = other >> 1 ^ (_POLYNOMIAL if other & 1 else 0)
    return product
