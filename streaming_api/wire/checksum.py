"""Checksum: CRC-32 and length, as gzip ends with them, that can be joined and cut apart. Pure.

Viewers of one group are sent the same bytes, so these are summed up once for all of them. What a
connection was sent is then a cut out of that, joined to what it was sent before: the arithmetic of
zlib's ``crc32_combine``, which Python's zlib does not offer.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

_POLYNOMIAL: Final = 0xEDB88320
"""RFC 1952 section 8: of CRC-32, without its leading term, the lowest power in the highest bit."""
_ONE: Final = 1 << 31


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


NO_SUM: Final = Checksum()
"""Of nothing."""


def _product(one: int, other: int) -> int:
    """Of two polynomials over GF(2), modulo the one of CRC-32."""
    product = 0
    while one:
        if one & _ONE:
            product ^= other
        one = (one << 1) & 0xFFFFFFFF
        other = other >> 1 ^ (_POLYNOMIAL if other & 1 else 0)
    return product


def _squares(power: int) -> Iterator[int]:
    while True:
        yield power
        power = _product(power, power)


_OVER_BYTES: Final = tuple(islice(_squares(_ONE >> 8), 64))
"""What moves a checksum over 1, 2, 4, 8, ... bytes: x to the power of eight times that."""


def _shifted(crc: int, size: int) -> int:
    """A checksum moved over so many bytes."""
    for bit in range(size.bit_length()):
        if size >> bit & 1:
            crc = _product(crc, _OVER_BYTES[bit])
    return crc
