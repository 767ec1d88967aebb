"""A backlog says what was put into it, in one block or not, and counts as long as it is there."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise

import pytest

from streaming_api.engine.backlog import Backlog
from streaming_api.engine.budget import ANSWER_BYTES, MESSAGE_BYTES, Account, Budget
from streaming_api.upstreams.http1 import Head, ResponseEnd, ResponseProtocol
from streaming_api.wire.messages import Encoder, Message
from tests.fakes.engine import channel, chat_stream
from tests.fakes.hot_path import CountingTransport


class Reference:
    """The same as a list of messages."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def after(self, cursor: int, until: int, limit: int) -> list[Message]:
        read: list[Message] = []
        for message in self.messages:
            if message.number > until or sum(len(m.payload) for m in read) >= limit:
                break
            if message.number > cursor:
                read.append(message)
        return read


@pytest.mark.parametrize("seed", range(20))
def test_what_was_added_is_read_until_it_is_dropped(seed: int) -> None:
    chance = random.Random(seed)
    budget = Budget(2**30)
    account = Account(budget.share("a"), budget.kept)
    backlog, reference = Backlog(_encoder(), account), Reference()
    number = 0
    for _ in range(12):
        for _ in range(chance.choice((0, 1, 3, 90))):
            batch = []
            for _ in range(chance.randrange(4)):
                number += chance.choice((1, 1, 1, 5))
                data = b'{"x":"%b"}' % (b"y" * chance.choice((0, 7, 90, 9000)))
                batch.append(backlog.encoder.encode(number, data, float(number)))
            backlog.add(batch)
            reference.messages += batch
        for _ in range(chance.choice((0, chance.randrange(len(backlog) + 1), len(backlog)))):
            assert (backlog.oldest, backlog.since) == (
                reference.messages[0].number,
                reference.messages[0].appended,
            )
            backlog.drop()
            del reference.messages[0]
        kept = reference.messages
        size = sum(len(message.payload) for message in kept)
        assert (len(backlog), backlog.bytes) == (len(kept), size)
        assert budget.bytes == ANSWER_BYTES + size + len(kept) * MESSAGE_BYTES
        times = [message.appended for message in kept]
        gaps = (later - earlier for earlier, later in pairwise(times))
        assert backlog.longest_gap() == max(gaps, default=0.0)
        for _ in range(30):
            cursor, until, limit = (
                chance.randrange(number + 3),
                chance.randrange(number + 3),
                chance.choice((1, 99, 999, 99_999)),
            )
            wanted = reference.after(cursor, until, limit)
            assert [_fields(m) for m in backlog.after(cursor, until, limit)] == [
                _fields(m) for m in wanted
            ]
            first = wanted[0].number if wanted else cursor + 1
            payloads = [message.payload for message in wanted]
            assert backlog.payloads(cursor, until, limit) == (first, payloads)
    del backlog
    assert budget.bytes == 0


def test_payloads_are_joined_and_none_stays_by_itself_once_the_stream_has_ended() -> None:
    """CPython gives none of a MiB of small objects back while one in it is in use."""
    backlog = Backlog(_encoder())
    alone = []
    for number in range(1, 999):
        backlog.add([backlog.encoder.encode(number, b'{"x":"%b"}' % (b"y" * 300), 0.0)])
        alone.append(len(backlog._tail))
    assert 0 < max(alone) < 60
    backlog.seal()
    assert backlog._tail == []
    assert min(map(len, backlog._blocks[:-1])) >= 2**14


def test_what_an_upstreams_connection_read_last_is_let_go_of() -> None:
    """Answers that are kept know how they were asked for."""
    loop = asyncio.new_event_loop()
    read = bytearray(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    read += b"5\r\nhello\r\n" * 99 + b"0\r\n\r\n"
    receiver = Collected()
    response = ResponseProtocol(loop, b"", receiver, 1.0)
    response.connection_made(CountingTransport())
    response.data_received(bytes(read))
    loop.close()
    assert receiver.body == b"hello" * 99
    assert not isinstance(getattr(response.on_body, "__self__", None), list), "of its pieces"


class Collected:
    """Takes a response."""

    def __init__(self) -> None:
        self.body = b""

    def head_received(self, head: Head) -> None:
        """Take its head."""

    def body_received(self, data: bytes) -> None:
        """Take some of its body."""
        self.body += data

    def ended(self, outcome: ResponseEnd, detail: str) -> None:
        """Take its end."""


def _fields(message: Message) -> tuple[int, bytes, float]:
    return message.number, message.payload, message.appended


def _encoder() -> Encoder:
    return chat_stream(channel())._encoder
