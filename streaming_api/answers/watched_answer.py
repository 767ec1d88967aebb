"""One answer as its viewers see it: its stream and how it ended. Does not know what fills it.

`Answer` fills one from the upstream; with several processes, `cluster.mirror` fills one from
what another process has recorded.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

import attrs

from streaming_api.engine.budget import Account
from streaming_api.engine.stream import Policy, Retention, Stream
from streaming_api.engine.viewer import Viewer
from streaming_api.wire.messages import CHAT, Encoder, notice

if TYPE_CHECKING:
    from streaming_api.engine.channel import Channel
    from streaming_api.engine.sink import Sink
    from streaming_api.engine.turn import Turn
    from streaming_api.upstreams.reply_errors import UpstreamFault
    from streaming_api.wire.commands import ChatRequest


_FAILED: Final = frozenset({"cancelled", "abandoned", "error", "incomplete"})


@attrs.frozen
class AnswerOutcome:
    """How an answer ended.

    Attributes:
        finish_reason: the model's own, or ``cancelled``, ``abandoned``, ``incomplete``, ``error``.
        error: what went wrong, if something did.
        done: whether the upstream itself said that this was all, with or without a reason.
    """

    finish_reason: str
    error: UpstreamFault | None = None
    done: bool = False


class Face(Protocol):
    """An answer's stream in the words of another wire. A type.

    Attributes:
        channel: the channel that carries it.
    """

    channel: Channel


class WatchedAnswer:
    """One answer and its viewers.

    Args:
        asked_by: the name under which its limits are counted.
        account: counts its memory.

    Attributes:
        outcome: how it ended; None while it runs.
        position: in the queue for an upstream connection; 0 when it has one.
        chunks: number of the upstream's messages on it.
        on_begun: called once when the first chunk or the end is there.
        on_ended: called once when it has ended.
        gateway_headers: headers of the gateway that its client is shown.
        faces: its streams in the words of other wires (`streaming_api.faces`), by name.
        notes: by the name of a face, write what another process needs to make that face again.
        elsewhere: whether another process fills it; clients may have seen more of it than is here.
    """

    elsewhere: ClassVar[bool] = False

    def __init__(
        self,
        request: ChatRequest,
        owner: str,
        asked_by: str,
        channel: Channel,
        retention: Retention,
        account: Account,
    ) -> None:
        self.request = request
        self.request_id = request.request_id
        self.owner = owner
        self.asked_by = asked_by
        self.outcome: AnswerOutcome | None = None
        self.position = 0
        self.chunks = 0
        self.on_begun: list[Callable[[], None]] = []
        self.on_ended: list[Callable[[], None]] = []
        self.gateway_headers: Mapping[str, str] = {}
        self.faces: dict[str, Face] = {}
        self.notes: dict[str, Callable[[], bytes]] = {}
        self.account = account
        self.channel = channel
        name = f"chat/{request.request_id}"
        encoder = Encoder(CHAT, name, request.request_id, request.request_id)
        stream = Stream(encoder, Policy.LOSSLESS, retention, account=account)
        self.stream = channel.add(stream)
        self.watched = frozenset(channel.streams)

    @property
    def begun(self) -> bool:
        """Whether the first chunk or the end is there."""
        return self.channel.number > 0 or self.outcome is not None

    @property
    def failed(self) -> bool:
        """Whether it will not be complete."""
        return self.outcome is not None and self.outcome.finish_reason in _FAILED

    @property
    def turn(self) -> Turn | None:
        """The turn in which it is written, if it is read in this process."""
        return None

    def cancel(self, outcome: AnswerOutcome | None = None) -> None:
        """End it. Harmless when it has ended."""
        raise NotImplementedError

    async def cancelled(self) -> None:
        """Wait until it is certain that `cancel` has been heard.

        Raises:
            Unavailable: what fills it cannot be notified now.
        """

    def locate(self, cursor: str) -> tuple[int, str | None]:
        """Return the number that a client's cursor stands for; or 0, and why the cursor is void."""
        return self.channel.locate(cursor)

    def reaches(self, after: int) -> bool:
        """Return whether a message with this number has been, or may be, sent."""
        return after <= self.channel.number

    def has_seen_all(self, after: int) -> bool:
        """Return whether an answer that has ended has nothing left to show after a number."""
        return self.outcome is not None and after == self.channel.number

    def watch(self, connection: Sink, after: int, fault: str | None = None) -> Viewer:
        """Show this answer on a connection, from strictly after a sequence_id.

        What is no longer retained is announced first. An ``after`` that was never sent is reported,
        too, and the answer shown from its start; so is the ``fault`` of a cursor (`locate`).
        """
        viewer = self.attach(connection)
        if after > self.channel.number:
            after, fault = 0, "future"
        self.show(viewer, after, fault)
        return viewer

    def show(self, viewer: Viewer, after: int, fault: str | None = None) -> None:
        """Show an attached viewer what follows ``after``, and first what is missing before it."""
        if fault is not None:
            viewer.report_gap(self.stream, fault, None, None)
        if self.stream.evicted > after:
            viewer.report_gap(self.stream, "evicted", after + 1, self.stream.evicted)
            after = self.stream.evicted
        viewer.resume(after)
        if self.position:
            viewer.connection.send(self.queue_notice(), CHAT)

    def attach(self, connection: Sink, after: int = 0) -> Viewer:
        """Count a connection among the viewers, before anything is shown on it."""
        viewer = Viewer(connection, self.channel, self.watched)
        viewer.attach(after)
        return viewer

    def returned(self) -> None:
        """Note that somebody watches again: the answer is not abandoned."""

    def move(self) -> None:
        """Expect that viewers who leave now come back on another process: it was not their wish."""

    def check_watched(self) -> None:
        """Do what ``on_disconnect`` says if nobody watches."""

    # Memory

    @property
    def channels(self) -> list[Channel]:
        """Its own channel, and those of its faces."""
        return [self.channel, *(face.channel for face in self.faces.values())]

    @property
    def lags(self) -> bool:
        """Whether a viewer lags."""
        return any(channel.lagging for channel in self.channels)

    def let_go(self) -> None:
        """Keep what viewers who watch now still need, and nothing for those who may come back."""
        for channel in self.channels:
            channel.let_go()

    def cut_lagging(self) -> None:
        """Go on without the viewers who lag."""
        for channel in self.channels:
            channel.cut_lagging()
        self.let_go()

    def queue_notice(self) -> bytes:
        """Return the notice that says the answer's position in the queue."""
        return notice(
            CHAT,
            {"event": "queued", "position": self.position},
            stream=self.stream.name,
            request_id=self.request_id,
        )


def weakly(method: Callable[[], None]) -> Callable[[], None]:
    """Return a call of a method that does not keep its object alive: the caller is a part of it."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        bound = reference()
        if bound is not None:
            bound()

    return call


def notify(callbacks: list[Callable[[], None]]) -> None:
    """Call each of them once, in order."""
    once, callbacks[:] = tuple(callbacks), ()
    for callback in once:
        callback()
