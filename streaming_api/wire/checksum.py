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
"""The polynomial of CRC-32 (RFC 1952 section 8), bit-reversed and without its leading term."""
_ONE: Final = 1 << 31


class Checksum(NamedTuple):
    """The CRC-32 and length of a byte string."""

    crc: int = 0
    size: int = 0

    def add(self, data: bytes) -> Checksum:
        """Return the checksum with these bytes appended."""
        return Checksum(zlib.crc32(data, self.crc), self.size + len(data))

    def join(self, other: Checksum) -> Checksum:
        """Return the checksum of both byte strings concatenated, the ``other`` one last."""
        return Checksum(_shifted(self.crc, other.size) ^ other.crc, self.size + other.size)

    def since(self, start: Checksum) -> Checksum:
        """Return the checksum of what follows the prefix whose checksum is ``start``."""
        size = self.size - start.size
        return Checksum(self.crc ^ _shifted(start.crc, size), size)


NO_SUM: Final = Checksum()
"""The checksum of the empty byte string."""


def _product(one: int, other: int) -> int:
    """Multiply two polynomials over GF(2), modulo the polynomial of CRC-32."""
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
"""Factors that shift a checksum by 1, 2, 4, 8, ... bytes: x to the power of eight times that."""


def _shifted(crc: int, size: int) -> int:
    """Shift a checksum by ``size`` bytes."""
    for bit in range(size.bit_length()):
        if size >> bit & 1:
            crc = _product(crc, _OVER_BYTES[bit])
    return crc
