"""Mirror: an answer of another process, filled from the store, shown by the code that shows any.

It shows what is in the store and nothing else; stitching happens only in `take`. Whoever reads
the store passes it entries in order; the owner repairs a hole, from its memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final

import orjson

from streaming_api.answers.watched_answer import AnswerOutcome, WatchedAnswer, notify, weakly
from streaming_api.engine.budget import Account
from streaming_api.engine.viewer import Viewer
from streaming_api.upstreams.reply_errors import UpstreamFault
from streaming_api.wire.messages import CHAT, Encoder, parse_cursor

if TYPE_CHECKING:
    from streaming_api.cluster.entries import Entry
    from streaming_api.engine.budget import Share
    from streaming_api.engine.channel import Channel
    from streaming_api.engine.sink import Sink
    from streaming_api.engine.stream import Retention
    from streaming_api.wire.commands import ChatRequest

SEAL_CURSOR: Final = 10**17
"""A client's cursor after the end of an answer whose owner is dead.

Its ``sequence_id`` may be that of a token which died with the owner; this cannot be mistaken."""
SERVER_LOST: Final = UpstreamFault(
    status=None,
    type="server_error",
    code="server_lost",
    message="The server that made this answer is gone; the answer is cut short.",
)


class Mirror(WatchedAnswer):
    """One answer of another process, as shown here.

    Args:
        instance: the process that owns it.
        share: the share that its memory counts towards.

    Attributes:
        instance: the process that fills it.
        loaded: set once everything that the store had when it was created has been read.
        owner_lost: whether its owner is dead, so that nobody repairs holes.
        orphaned: whether its owner no longer has it: what the store has is all that there is.
        sealed: whether it was ended on its owner's behalf.
        moving: whether its viewers are being sent to another process.
        deleted: whether it is kept no longer, and only shown to those who watch it.
        idle_since: monotonic time in seconds since which nobody has watched.
        on_cancel: called when its owner is to be asked to end it.
        on_watched: called when the first viewer comes or the last one leaves.
        confirm: waits until its owner has ended it.
    """

    elsewhere: ClassVar[bool] = True

    def __init__(
        self,
        request: ChatRequest,
        owner: str,
        asked_by: str,
        channel: Channel,
        retention: Retention,
        instance: str,
        share: Share,
    ) -> None:
        account = Account(share, share.budget.mirrored)
        super().__init__(request, owner, asked_by, channel, retention, account)
        self.instance = instance
        self.loaded = asyncio.Event()
        self.owner_lost = False
        self.orphaned = False
        self.sealed = False
        self.moving = False
        self.deleted = False
        self.idle_since = time.monotonic()
        self.on_cancel: Callable[[Mirror], None] | None = None
        self.on_watched: Callable[[Mirror], None] | None = None
        self.confirm: Callable[[Mirror], Awaitable[None]] | None = None
        self._ahead: list[tuple[Viewer, int]] = []
        channel.on_unwatched = weakly(self._unwatched)

    def __repr__(self) -> str:
        state = self.outcome.finish_reason if self.outcome else "runs"
        return f"<Mirror {self.request_id} of {self.instance} {state}, at {self.channel.number}>"

    # From the store

    def take(self, entry: Entry) -> bool:
        """Show an entry; return False if something before it is missing."""
        channel = self.channel
        if channel.ended:
            return True
        if entry.seal:
            self.lost()
            return True
        known = channel.number + 1 - entry.first
        if known < 0:
            # what is missing at the very beginning has been trimmed, as the owner's backlog was
            if channel.number and not entry.cut and not self.owner_lost:
                return False
            self._miss(entry.first - 1)
            known = 0
        payloads = entry.payloads[known:]
        if payloads:
            self._show(entry.first + known, payloads, final=entry.final)
        return True

    def _show(self, first: int, payloads: tuple[bytes, ...], *, final: bool) -> None:
        self.chunks += len(payloads) - final
        if final:
            self.outcome = _outcome(payloads[-1])
        self.channel.replay(self.stream, first, payloads, final=final)
        self._progressed()

    def _progressed(self) -> None:
        waiting, self._ahead = self._ahead, []
        for viewer, after in waiting:
            if viewer.gone:
                continue
            if after < self.channel.number or (after == self.channel.number and not self.sealed):
                self.show(viewer, after)
            elif self.outcome is not None:
                self._end_ahead(viewer, after)
            else:
                self._ahead.append((viewer, after))
        notify(self.on_begun)
        if self.outcome is not None:
            self.channel.on_unwatched = None
            notify(self.on_ended)

    def _miss(self, last: int) -> None:
        """Announce to viewers that what follows, up to ``last``, is lost."""
        first = self.channel.number + 1
        ahead = {viewer for viewer, after in self._ahead if after >= last}
        for viewer in {*self.channel.viewers()} - ahead:
            assert isinstance(viewer, Viewer)  # nobody else watches a mirror
            viewer.report_gap(self.stream, "lost", first, last)
        self.channel.skip(self.stream, last)

    def lost(self) -> None:
        """End the answer here, the same for everybody: its owner is dead."""
        if self.channel.ended:
            return
        self.sealed = True
        self.outcome = AnswerOutcome("incomplete", SERVER_LOST)
        data = {
            "object": "chat.completion.end",
            "finish_reason": "incomplete",
            "usage": {"completion_tokens": self.chunks} if self.chunks else None,
            "usage_source": "estimated" if self.chunks else None,
            "error": {
                "type": SERVER_LOST.type,
                "code": SERVER_LOST.code,
                "message": SERVER_LOST.message,
                "param": None,
            },
            "timing": {
                "time_to_first_chunk_ms": None,
                "total_ms": None,
                "chunks": self.chunks,
            },
        }
        number = self.channel.number + 1
        self.stream.end_cursor = SEAL_CURSOR
        end = self._encoder().encode(number, orjson.dumps(data), time.monotonic(), SEAL_CURSOR)
        self.channel.replay(self.stream, number, (end.payload,), final=True)
        self._progressed()

    def _encoder(self) -> Encoder:
        return Encoder(CHAT, self.stream.name, self.channel.epoch, self.request_id)

    # Audience

    def locate(self, cursor: str) -> tuple[int, str | None]:
        """Locate a cursor as for any answer; a number above those here is not in the store yet."""
        parsed = parse_cursor(cursor)
        if parsed is not None and parsed[0] == self.channel.epoch:
            return parsed[1], None
        return self.channel.locate(cursor)

    def watch(self, connection: Sink, after: int, fault: str | None = None) -> Viewer:
        """Show it from strictly after a number, which may be still to come.

        The owner's viewers see a token before the store has it. A client that has seen more than is
        here waits for the rest, and is never shown again what it has seen.
        """
        if after > self.channel.number and self.outcome is None:
            return self.attach(connection, after)
        viewer = self.attach(connection)
        if after >= self.channel.number and self.outcome is not None:
            self._end_ahead(viewer, after)
        else:
            self.show(viewer, after, fault)
        return viewer

    def attach(self, connection: Sink, after: int = 0) -> Viewer:
        """Count a connection among the viewers."""
        viewer = super().attach(connection, after)
        if after > self.channel.number:
            self._ahead.append((viewer, after))
        if self.on_watched is not None:
            self.on_watched(self)
        return viewer

    def _end_ahead(self, viewer: Viewer, after: int) -> None:
        """End for a client that may have seen tokens that died with the owner; show none twice."""
        last = self.channel.number
        if not self.sealed:
            self.show(viewer, *((after, None) if after == last else (0, "future")))
        elif after >= SEAL_CURSOR:
            self.show(viewer, last)
        else:
            viewer.report_gap(self.stream, "lost", last, after)
            end = self.stream.after(last - 1, last, 1)[0]
            data = end.data
            again = self._encoder().encode(after + 1, data, end.appended, SEAL_CURSOR)
            again.final = True
            viewer.write(viewer.framing.message(again))
            viewer.resume(last)

    def reaches(self, after: int) -> bool:
        """Return whether such a message may have been sent: tokens may have died with the owner."""
        return super().reaches(after) or self.outcome is None or self.sealed

    def has_seen_all(self, after: int) -> bool:
        """Return whether nothing is left to show; if it was cut short, whether its end was seen."""
        return after >= SEAL_CURSOR if self.sealed else super().has_seen_all(after)

    def _unwatched(self) -> None:
        self.idle_since = time.monotonic()
        if self.on_watched is not None:
            self.on_watched(self)

    def move(self) -> None:
        """Expect that viewers who leave now come back on another process: it was not their wish."""
        self.moving = True

    def check_watched(self) -> None:
        """Do nothing: its owner decides."""
        if not self.channel.watched:
            self._unwatched()

    def cancel(self, outcome: AnswerOutcome | None = None) -> None:  # noqa: ARG002 (it says how)
        """Ask its owner to end it."""
        if self.outcome is None and self.on_cancel is not None:
            self.on_cancel(self)

    async def cancelled(self) -> None:
        """Wait until its owner has ended it."""
        if self.outcome is None and self.confirm is not None:
            await self.confirm(self)


def _outcome(end: bytes) -> AnswerOutcome:
    """Return how an answer ended, from its last message."""
    data = orjson.loads(end)["data"]
    error = data.get("error")
    if error is None:
        return AnswerOutcome(data["finish_reason"])
    known = ("type", "code", "message", "param", "status", "retry_after")
    fields: dict[str, Any] = {name: error.get(name) for name in known}
    return AnswerOutcome(data["finish_reason"], UpstreamFault(**fields))
