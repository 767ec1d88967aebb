"""A backlog that has settled says what it said before, and counts as before until it is gone."""

from __future__ import annotations

import random

import pytest

from streaming_api.engine.backlog import Backlog
from streaming_api.engine.budget import Account, Budget
from streaming_api.engine.settled import Settled
from streaming_api.wire.messages import Encoder
from tests.fakes.engine import channel, chat_stream


@pytest.mark.parametrize("seed", range(20))
def test_what_is_read_is_the_same_also_after_some_was_dropped(seed: int) -> None:
    chance = random.Random(seed)
    budget = Budget(2**30)
    account = Account(budget.share("a"), budget.kept)
    grown = Backlog(_encoder(), account)
    number = 0
    for _ in range(chance.randrange(1, 700)):
        number += chance.choice((1, 1, 1, 5))
        data = b'{"x":"%b"}' % (b"y" * chance.randrange(90))
        grown.add([grown.encoder.encode(number, data, float(number))])
    for _ in range(chance.randrange(len(grown))):
        grown.drop()
    held = budget.bytes
    settled = Settled(grown)
    for _ in range(4):
        assert (len(settled), settled.bytes) == (len(grown), grown.bytes)
        assert (settled.oldest, settled.since) == (grown.oldest, grown.since)
        assert settled.longest_gap() == grown.longest_gap()
        for _ in range(30):
            asked = (
                chance.randrange(number + 3),
                chance.randrange(number + 3),
                chance.randrange(999),
            )
            assert settled.payloads(*asked) == grown.payloads(*asked)
            read, again = settled.after(*asked), grown.after(*asked)
            assert [m.payload for m in read] == [m.payload for m in again]
            assert [(m.number, m.appended) for m in read] == [(m.number, m.appended) for m in again]
        for _ in range(chance.randrange(len(grown))):
            grown.drop()
            settled.drop()
    assert budget.bytes <= 2 * held
    del grown
    assert budget.bytes == account.bytes > settled.bytes
    del settled
    assert budget.bytes == 0


def _encoder() -> Encoder:
    return chat_stream(channel())._encoder
