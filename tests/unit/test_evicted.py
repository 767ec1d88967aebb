"""Names of evicted answers: the last ones are known, each for itself, in one block of memory."""

from __future__ import annotations

import random

from streaming_api.answers.evicted import Evicted


def test_the_last_names_are_known_and_no_others() -> None:
    evicted = Evicted(100)
    names = [("me", f"a-{number}") for number in range(250)]
    for name in names:
        evicted.add(name)
    assert [name for name in names if name in evicted] == names[150:]
    assert ("you", "a-249") not in evicted


def test_a_name_that_is_used_again_is_forgotten() -> None:
    evicted = Evicted(3)
    evicted.add(("me", "a"))
    evicted.add(("me", "b"))
    evicted.discard(("me", "a"))
    evicted.discard(("me", "c"))
    assert ("me", "a") not in evicted
    assert ("me", "b") in evicted


def test_a_hash_that_lies_across_two_is_not_found() -> None:
    chance = random.Random(1)
    evicted = Evicted(2)
    block = bytearray(chance.randbytes(16))
    across = block[3:11]
    evicted._hashes = block
    assert evicted._find(bytes(across)) == -1
    evicted._hashes = block + across
    assert evicted._find(bytes(across)) == 16
