"""Entries of the topics' streams in the store: messages that follow each other, and states. Pure.

The id of an entry is the number of its **first** message: whoever appends to a stream that has
grown meanwhile is refused by the store.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import orjson

from streaming_api.cluster.entries import Unreadable
from streaming_api.topics.board import Line, Past
from streaming_api.topics.topic import Json

_LEVEL: Final = 1
OPENING: Final[tuple[Line, ...]] = (("", b""),)
"""The first message of a numbering, which nobody is shown: then the stream exists."""

Fields = Mapping[bytes, bytes]


@attrs.frozen
class TopicEntry:
    """Consecutive messages on the topics of one channel.

    Attributes:
        first: the number of the first.
        lines: the messages.
        webhook: the id of the last webhook that they take into account.
        left_out: alerts of the webhook that are not shown.
    """

    first: int
    lines: Sequence[Line]
    webhook: str = "0-0"
    left_out: int = 0

    def encode(self) -> list[bytes]:
        """Return fields and values; messages hold no LF, and names no space."""
        text = b"\n".join(name.encode() + b" " + payload for name, payload in self.lines)
        fields = [b"z", zlib.compress(text, _LEVEL), b"w", self.webhook.encode()]
        return [*fields, b"l", b"%d" % self.left_out] if self.left_out else fields


def decode(number: str, fields: Fields) -> TopicEntry:
    """Return the entry with this id; ignore unknown fields, of a later version.

    Raises:
        Unreadable: it is none.
    """
    try:
        parts = (line.partition(b" ") for line in zlib.decompress(fields[b"z"]).split(b"\n"))
        return TopicEntry(
            first=int(number.partition("-")[0]),
            lines=[(name.decode(), payload) for name, _, payload in parts],
            webhook=fields[b"w"].decode(),
            left_out=int(fields.get(b"l", b"0")),
        )
    except (ValueError, KeyError, zlib.error):
        raise Unreadable from None


def encode_state(number: int, dumps: Mapping[str, bytes], memory: Mapping[str, object]) -> bytes:
    """Return a state for the store.

    Args:
        number: the number of the message after which it holds.
        dumps: what `Topic.dump` returned, by name.
        memory: what its maker knows besides.
    """
    topics = b",".join(b'"%b":%b' % (name.encode(), dump) for name, dump in dumps.items())
    text = b'{"number":%d,"memory":%b,"topics":{%b}}'
    return zlib.compress(text % (number, orjson.dumps(memory), topics), _LEVEL)


def decode_state(packed: bytes) -> tuple[Past, Json]:
    """Return the state, and what its maker knew besides.

    Raises:
        Unreadable: it is none.
    """
    try:
        data = orjson.loads(zlib.decompress(packed))
        return Past(data["number"], data["topics"]), data["memory"]
    except (ValueError, KeyError, zlib.error):
        raise Unreadable from None


def memory_of(state: object) -> Json | None:
    """Return what the maker of a state knew besides, as far as the store has it."""
    with contextlib.suppress(Unreadable):
        return decode_state(state)[1] if isinstance(state, bytes) else None
    return None
