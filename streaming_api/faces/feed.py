"""Feed: the hot path into a derived stream: read, translate, append. Knows no viewers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from streaming_api.faces.chunk_reader import ChunkReader
from streaming_api.faces.translator import Translator

if TYPE_CHECKING:
    from streaming_api.engine.channel import Channel
    from streaming_api.engine.stream import Stream
    from streaming_api.engine.turn import Turn

LOOK_EVERY: Final = 4_096
"""Characters that a translator holds more, after which its derived stream looks at it."""


class Feed:
    """Fills a derived stream with what the answer says.

    Args:
        translator: has made its opening already.
        channel: that of the derived stream.
        stream: the derived stream's.
        turn: in which the answer is written, if it is read in this process.
        look: called when the stream is full, or `watchful`, or `look_at` is reached.
        end: called with the last events, which are not appended here.

    Attributes:
        watchful: whether to look whenever something has been appended.
        look_at: the size of the translator to look at next.
    """

    __slots__ = (
        "_channel", "_chunks", "_end", "_look", "_stream", "_translator", "_turn", "look_at",
        "watchful",
    )  # fmt: skip

    def __init__(
        self,
        translator: Translator,
        channel: Channel,
        stream: Stream,
        turn: Turn | None,
        *,
        look: Callable[[], None],
        end: Callable[[list[bytes]], None],
    ) -> None:
        self._chunks = ChunkReader(translator)
        self._translator = translator
        self._channel = channel
        self._stream = stream
        self._turn = turn
        self._look = look
        self._end = end
        self.watchful = False
        self.look_at = 0

    def take(self, data: bytes) -> None:
        """Take messages of the answer, each on a line of its own."""
        events = self._chunks.read(data)
        if self._chunks.ended:
            self._end(events)
            return
        channel, turn = self._channel, self._turn
        if events:
            channel.append(self._stream, events, later=None if turn is None else turn.later)
        if channel.full or self.watchful or self._translator.size >= self.look_at:
            self._look()
