"""Derived stream: an answer's stream once more, in another wire's words.

A derived stream is a viewer of the answer and has a channel of its own. Its translator turns what
it reads into events, which the engine numbers, keeps, flushes and replays like all others. When its
own backlog is full it stops reading, and so does the answer, unless another viewer reads faster.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from streaming_api.answers.watched_answer import AnswerOutcome, weakly
from streaming_api.engine.stream import Policy, Stream
from streaming_api.engine.viewer import Viewer
from streaming_api.errors import BadRequest, Gone
from streaming_api.faces.feed import LOOK_EVERY, Feed
from streaming_api.faces.framing import LINES
from streaming_api.faces.translator import Translator
from streaming_api.upstreams.reply_errors import UpstreamFault
from streaming_api.wire.commands import OnDisconnect
from streaming_api.wire.messages import CHAT, BareEncoder

if TYPE_CHECKING:
    from streaming_api.answers.watched_answer import WatchedAnswer
    from streaming_api.engine.sink import Sink, Watcher
    from streaming_api.wire.checksum import Checksum
    from streaming_api.wire.framing import Framing
    from streaming_api.wire.messages import Message

_TOO_LARGE: Final = UpstreamFault(
    status=None,
    type="server_error",
    code="answer_too_large",
    message="The answer is larger than is kept of one (retention.chat_retention_bytes).",
)


class Derived:
    """An answer in the words of another wire.

    Args:
        answer: what is translated; the answer holds this stream, and not the other way round.
        face: the name of the wire.
        translator: a translator that has read nothing yet.

    Attributes:
        ended: whether the last event has been appended.
        lost: whether messages of the answer were dropped before they could be translated.
        seen: whether everything has been written to some viewer.
        on_ended: functions to call once when the last event has been appended.
    """

    def __init__(
        self,
        answer: WatchedAnswer,
        face: str,
        translator: Translator,
    ) -> None:
        self.request_id = answer.request_id
        self.translator = translator
        self.ended = False
        self.lost = False
        self.seen = False
        self.on_ended: list[Callable[[], None]] = []
        self._answer: WatchedAnswer = weakref.proxy(answer)
        self._most = answer.stream.retention.bytes
        self._ahead: list[Viewer] = []
        self._tap = _Tap(self)
        self._reader: _Reader | None = None
        self._cursor = 0
        self._account = answer.account
        self._counted = 0
        self._translated = 0  # characters of the translator's that are counted
        self.channel = answer.channel.sibling()
        name = f"{face}/{answer.request_id}"
        encoder = BareEncoder(CHAT, name, answer.request_id, answer.request_id)
        stream = Stream(encoder, Policy.LOSSLESS, answer.stream.retention, account=answer.account)
        self.stream = self.channel.add(stream)
        self._watched = frozenset(self.channel.streams)
        self.channel.on_unwatched = weakly(self._unwatched)
        self.channel.on_room = self._tap.resume_writing
        self.channel.append(self.stream, translator.opening())
        self._feed = Feed(
            translator,
            self.channel,
            self.stream,
            answer.turn,
            look=weakly(self._look),
            end=_weakly_end(weakref.ref(self)),
        )
        answer.faces[face] = self
        answer.on_ended.append(self._read_on)
        self._read_on()

    def __repr__(self) -> str:
        state = "lost" if self.lost else "ended" if self.ended else "runs"
        return f"<Derived {self.stream.name} {state} at {self.channel.number}>"

    def __del__(self) -> None:
        """Release what the translator held, and let the answer no longer wait for this stream."""
        self._account.charge(-self._counted)
        if self._reader is not None:
            self._reader.leave()

    def count(self, size: int) -> None:
        """Count bytes of memory that are held beside the backlog, until this stream is gone."""
        self._counted += size
        self._account.charge(size)

    # Its audience

    def check(self, after: int) -> None:
        """Check that the stream can be shown from strictly after an event.

        Args:
            after: the number of the last event that the client has.

        Raises:
            Gone: what follows is no longer kept.
            BadRequest: no event has this number yet.
        """
        if self.lost or self.stream.evicted > after:
            message = "What follows that event is no longer kept; ask again."
            raise Gone(message, "stream_evicted")
        if after > self.channel.number and not self._answer.elsewhere:
            message = f"There is no event {after - 1} yet; the newest is {self.channel.number - 1}."
            raise BadRequest(message, "invalid_value", param="starting_after")

    def attach(self, connection: Sink, after: int = 0, framing: Framing | None = None) -> Viewer:
        """Count a connection among the viewers, before anything is shown on it.

        Args:
            connection: where the stream is shown.
            after: the number of the last event that the client has.
            framing: the framing, if not the connection's own.
        """
        viewer = Viewer(connection, self.channel, self._watched)
        if framing is not None:
            viewer.framing = framing
        viewer.attach(after)
        self._read_on()
        if after > self.channel.number:
            if self.ended:  # what came before its end was lost with another process
                viewer.attach(self.channel.number - 1)
            else:
                self._ahead.append(viewer)
                self._feed.watchful = True
        return viewer

    def wait(self, connection: Sink) -> Viewer:
        """Count a connection among the viewers that is shown the end alone."""
        viewer = _Waiting(connection, self.channel, self._watched)
        viewer.attach(0)
        self._read_on()
        return viewer

    def check_watched(self) -> None:
        """Do what ``on_disconnect`` says, if nobody watches."""
        if not self.channel.watched:
            self._unwatched()

    def _unwatched(self) -> None:
        """Leave the answer, so that it sees that nobody watches; read on if it is to finish."""
        if self._reader is not None and self._answer.request.on_disconnect is not _FINISH:
            self._cursor = self._reader.cursor
            self._reader.leave()
            self._reader = None

    # Reading the answer

    def _read_on(self) -> None:
        """Watch the answer from where the translator has got to."""
        if self._reader is None and not self.ended and not self.lost:
            self._answer.returned()
            self._reader = _Reader(self._tap, self._answer.channel, self._answer.watched)
            self._reader.write = self._feed.take
            self._reader.resume(self._cursor)

    def _look(self) -> None:
        """Count what the translator holds; pause the answer, or end it, if that is too much."""
        size = self.translator.size
        self.count(size - self._translated)
        self._translated = size
        self._feed.look_at = min(size + LOOK_EVERY, self._most + 1)
        if self._ahead:
            self._let_go_on()
        if self.channel.full:
            self._tap.pause_writing()
        if size > self._most:
            self._answer.cancel(AnswerOutcome("error", _TOO_LARGE))

    def end(self, events: list[bytes]) -> None:
        """Append the last events, and let the viewers go when they have been shown them."""
        self.ended = True
        *others, last = events
        self.channel.append(self.stream, others)
        self.channel.end(self.stream, last)
        self.stream.settle()
        self._let_go_on()
        self.channel.on_unwatched = self.channel.on_room = None
        once, self.on_ended = self.on_ended, []
        for notify in once:
            notify()

    def _let_go_on(self) -> None:
        """Show what follows to viewers who had seen more on another process than was here."""
        waiting, self._ahead = self._ahead, []
        for viewer in waiting:
            if viewer.gone:
                continue
            if viewer.cursor <= self.channel.number:
                viewer.resume(viewer.cursor)
            elif self.ended:  # what came before its end was lost with that process
                viewer.resume(self.channel.number - 1)
            else:
                self._ahead.append(viewer)
        self._feed.watchful = bool(self._ahead)

    def lose(self) -> None:
        """Notify the viewers that they were too slow: the answer moved on without this stream."""
        self.lost = True
        self._reader = None
        for viewer in self.channel.viewers():
            viewer.connection.too_slow()

    async def until_ended(self, seconds: float) -> None:
        """Wait for the last event, but no longer than this."""
        if self.ended:
            return
        arrived = asyncio.Event()
        self.on_ended.append(arrived.set)
        async with asyncio.timeout(seconds):
            await arrived.wait()


_FINISH: Final = OnDisconnect.FINISH


def _weakly_end(reference: weakref.ref[Derived]) -> Callable[[list[bytes]], None]:
    """Return a call of `Derived.end` that does not keep the stream alive."""

    def end(events: list[bytes]) -> None:
        derived = reference()
        if derived is not None:
            derived.end(events)

    return end


class _Tap:
    """What the answer sees as a viewer's connection: the way into a derived stream."""

    kind: Final = "derived"

    def __init__(self, derived: Derived) -> None:
        self._derived: Derived = weakref.proxy(derived)
        self.framing = LINES
        self.transport: asyncio.Transport = _Input()
        self.opening = b""
        self.paused = False
        self.viewers: set[Watcher] = set()
        self.unsent: Final = 0

    def pause_writing(self) -> None:
        """Stop reading: the derived stream is full."""
        self.paused = True
        for viewer in self.viewers:
            viewer.fall_behind()

    def resume_writing(self) -> None:
        """Read on."""
        self.paused = False
        for viewer in tuple(self.viewers):
            viewer.catch_up()

    def too_slow(self) -> None:
        """Note that the answer's backlog has moved on."""
        self._derived.lose()

    def send(self, payload: bytes, message_type: str) -> None:
        """Drop a notice: it is for one client, and a derived stream is not a client."""

    def count(self, messages: int, size: int, when: float) -> None:
        """Count nothing: nothing has been sent to anybody yet."""

    def add_plain(self, plain: bytes) -> None:
        """Add nothing: nothing is compressed here."""

    def add_checksum(self, written: Checksum) -> None:
        """Add nothing: nothing is compressed here."""

    def finished(self, viewer: Watcher) -> None:
        """Do nothing: the translator has read the end."""


class _Input(asyncio.Transport):
    """The transport of a tap: never full. A reader writes past it, to its feed."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Drop what is written: nobody reads it."""

    def get_write_buffer_size(self) -> int:
        """Return 0: nothing ever waits here."""
        return 0

    def is_closing(self) -> bool:
        """Return False: a tap never closes."""
        return False


class _Waiting(Viewer):
    """Somebody who is shown no events: nothing of the backlog is kept for it."""

    __slots__ = ()

    @property
    def cursor(self) -> int:
        """The number of the newest event: it is never behind."""
        return self.channel.number


class _Reader(Viewer):
    """A derived stream as a viewer of its answer; what it reads does not count as a delivery."""

    __slots__ = ()

    def _write_late(self, messages: list[Message]) -> None:
        self.write(self.framing.batch(messages))
