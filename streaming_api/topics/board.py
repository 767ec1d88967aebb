"""Board: topics on one channel as they are shown here, made and numbered elsewhere. Does no I/O.

What comes is folded into the topics' state and passed on to the viewers as it is. A new numbering
(another epoch) is reported to the viewers as a gap, followed by a snapshot.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Final

import attrs
import orjson

from streaming_api.engine.channel import Channel
from streaming_api.engine.stream import Retention
from streaming_api.engine.viewer import Viewer
from streaming_api.topics.topic import Json, Topic
from streaming_api.wire.messages import parse_cursor

AHEAD_SECONDS: Final = 1.0
"""How long a message may take from one process to another."""

Line = tuple[str, bytes]
"""The name of a topic, and a whole message on it."""


@attrs.frozen
class Past:
    """What a board goes on from.

    Attributes:
        number: number of the message after which the state was kept.
        topics: what `Topic.fold` restores each from, by name.
    """

    number: int
    topics: Mapping[str, Json]


class Board:
    """Topics that are shown.

    Args:
        channel: the channel that they are on.
        topics: those that are switched on.
        retention: how much of each is kept.
    """

    def __init__(self, channel: Channel, topics: Sequence[Topic], retention: Retention) -> None:
        self.channel = channel
        self.retention = retention
        self._topics = {topic.name: topic for topic in topics}
        self._ahead: set[Viewer] = set()

    def __repr__(self) -> str:
        return f"<Board {', '.join(self._topics)} on {self.channel!r}>"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its topics."""
        return tuple(self._topics)

    def dumps(self) -> dict[str, bytes]:
        """Return the state of each topic, which `load` restores."""
        return {name: topic.dump() for name, topic in self._topics.items()}

    # What is made here, while nobody else can be asked

    def show(self, name: str, changes: Sequence[bytes], *, urgent: bool) -> None:
        """Show changes that are numbered here."""
        topic = self._topics[name]
        for change in changes:
            topic.fold(orjson.loads(change))
        self.channel.append(self.channel.streams[name], changes, urgent=urgent)

    # What is numbered elsewhere

    def encode(self, number: int, name: str, change: bytes) -> bytes:
        """Return a change as the message that it will be, if it gets this number."""
        return self.channel.streams[name].encode(number, change)

    def take(self, first: int, lines: Sequence[Line]) -> bool:
        """Show messages numbered from ``first`` on; return False if some before are missing."""
        number = self.channel.number + 1
        if first > number:
            return False
        self._take(lines[number - first :], fold=True)
        for viewer in [each for each in self._ahead if each.cursor <= self.channel.flushed]:
            self._ahead.discard(viewer)
            viewer.catch_up()
        return True

    def _take(self, lines: Sequence[Line], *, fold: bool) -> None:
        """Show messages, those of one topic that follow each other in one write."""
        for name, part in itertools.groupby(lines, itemgetter(0)):
            payloads = [payload for _, payload in part]
            topic, number = self._topics.get(name), self.channel.number
            if topic is None:  # it is switched off here, or of a later version
                self.channel.pass_over(number + len(payloads))
                continue
            for payload in payloads if fold else ():
                topic.fold(orjson.loads(payload)["data"])
            self.channel.replay(self.channel.streams[name], number + 1, payloads, final=False)

    def show_ahead(self, viewer: Viewer, cursor: str) -> None:
        """Show from strictly after a cursor that is still on its way here.

        Another process may have shown that message already. If it does not come, it never was.
        """
        position = parse_cursor(cursor)
        assert position is not None
        viewer.attach(position[1])
        self._ahead.add(viewer)
        asyncio.get_running_loop().call_later(AHEAD_SECONDS, self._give_up, viewer)

    def _give_up(self, viewer: Viewer) -> None:
        if viewer in self._ahead:
            self._ahead.discard(viewer)
            if not viewer.gone:
                viewer.begin_again("future")

    # Number lines

    def begin(self, epoch: str) -> None:
        """Go on with what is known, under numbers of this process' own."""
        self._turn(epoch, 0, ())

    def load(self, epoch: str, past: Past, entries: Sequence[tuple[int, Sequence[Line]]]) -> None:
        """Show what is kept of another numbering.

        Args:
            epoch: that of the numbering.
            past: the state as of some message.
            entries: messages, by the number of the first, without holes, from at most the one that
                follows that state; they go back as far as a cursor may.
        """
        first = entries[0][0] if entries else past.number + 1
        self._turn(epoch, first - 1, entries, past)

    def _turn(
        self,
        epoch: str,
        number: int,
        entries: Sequence[tuple[int, Sequence[Line]]],
        past: Past | None = None,
    ) -> None:
        channel = self.channel
        self._ahead.clear()
        viewers = [each for each in channel.viewers() if isinstance(each, Viewer)]
        for viewer in viewers:
            viewer.fall_behind()
        totals = {name: stream.total for name, stream in channel.streams.items()}
        channel.begin(epoch, number)
        for name, topic in self._topics.items():
            topic.open(channel, self.retention)
            channel.streams[name].evicted = number
        for first, lines in entries:
            if past is not None and first > past.number:
                self._restore(past)
                past = None
            self._take(lines[channel.number + 1 - first :], fold=past is None)
        if past is not None:
            self._restore(past)
        for name, total in totals.items():
            channel.streams[name].total = total
        for viewer in viewers:
            viewer.begin_again("epoch")

    def _restore(self, past: Past) -> None:
        for name, data in past.topics.items():
            if (topic := self._topics.get(name)) is not None:
                topic.fold(data)
