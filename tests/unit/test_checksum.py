"""The checksum of gzip, joined and cut: always what zlib says of the whole."""

from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st

from streaming_api.wire.checksum import Checksum


def of(data: bytes) -> Checksum:
    return Checksum(zlib.crc32(data), len(data))


def test_the_checksum_of_nothing_is_zlibs() -> None:
    assert Checksum() == of(b"")


@given(st.binary(max_size=3_000), st.binary(max_size=3_000))
def test_a_checksum_added_joined_and_cut_is_what_zlib_says(one: bytes, other: bytes) -> None:
    both = of(one + other)
    assert of(one).add(other) == both
    assert of(one).join(of(other)) == both
    assert both.since(of(one)) == of(other)


def test_a_checksum_may_be_over_more_bytes_than_32_bits_count() -> None:
    zeros = Checksum(zlib.crc32(b"\0"), 1)
    for _ in range(33):
        zeros = zeros.join(zeros)
    assert zeros.size == 2**33
    assert zeros.since(Checksum()) == zeros
