"""Mirrors: the answers of other processes that are shown here, and what is sent to their owners."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

from streaming_api.answers.elsewhere import Key
from streaming_api.cluster.connection import Message
from streaming_api.cluster.entries import SEAL_ID, Entry
from streaming_api.cluster.meta import FORMAT, Meta, ref_of
from streaming_api.cluster.mirror import Mirror
from streaming_api.cluster.shared import unavailable
from streaming_api.cluster.store import GONE_SECONDS, SEALED_MARK
from streaming_api.errors import Unavailable
from streaming_api.wire.messages import CHAT

if TYPE_CHECKING:
    from streaming_api.answers.answers import Answers
    from streaming_api.answers.watched_answer import WatchedAnswer
    from streaming_api.cluster.figures import Figures
    from streaming_api.cluster.outbox import Outbox
    from streaming_api.cluster.store import Store
    from streaming_api.engine.budget import Share
    from streaming_api.engine.channel import Channel

logger = logging.getLogger(__name__)

IDLE_SECONDS: Final = 10.0
"""How long a mirror without viewers is kept."""
ENDED_SECONDS: Final = 1.0
"""The same for an answer that has ended: the store knows how long it is kept."""
LOAD_SECONDS: Final = 2.0
CANCEL_SECONDS: Final = 2.0
_TOGETHER: Final = 500
"""Number of answers of which one message to their owner speaks."""


class Soil(Protocol):
    """Marks a mirror to be read from the store. A type."""

    def __call__(self, ref: str, mirror: Mirror, *, soon: bool = True) -> None:
        """Read it soon, or with the next wait for messages."""


class Mirrors:
    """All mirrors in this process.

    Args:
        answers: the answers of this process, whose retention and memory mirrors share.
        new_channel: makes the channel of a mirror.
        kept: seconds for which the store keeps an answer after its end.
        soil: marks a mirror to be read from the store.
    """

    def __init__(
        self,
        store: Store,
        outbox: Outbox,
        figures: Figures,
        answers: Answers,
        new_channel: Callable[[str], Channel],
        kept: int,
        soil: Soil,
    ) -> None:
        self.present: dict[Key, Mirror] = {}
        self._store = store
        self._outbox = outbox
        self._figures = figures
        self._answers = answers
        self._new_channel = new_channel
        self._kept = kept
        self._soil = soil

    async def show(self, key: Key, about: Meta) -> None:
        """Mirror an answer here, and read it up to what the store has.

        Raises:
            Unavailable: none of it could be read in time, or this process is too old to read it.
        """
        if about.format > FORMAT:
            self._outdated()
        mirror = self.present.get(key)
        if mirror is None or mirror.deleted:
            mirror = Mirror(
                about.request,
                key[0],
                about.asked_by,
                self._new_channel(key[1]),
                self._answers.retention,
                about.instance,
                self._answers.budget.share(about.asked_by),
            )
            mirror.notes.update(about.notes)
            mirror.on_watched = self._watched
            mirror.on_cancel = self._cancel
            mirror.confirm = self._confirm
            mirror.channel.on_room = lambda: self._soil(ref_of(key), mirror)
            self.present[key] = mirror
        self._soil(ref_of(key), mirror)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOAD_SECONDS):
                await mirror.loaded.wait()
                return
        if not mirror.channel.number:
            self.present.pop(key, None)
            raise unavailable()

    def _outdated(self) -> NoReturn:
        """Refuse what a newer version has written, and say so."""
        if not self._figures.outdated:
            logger.warning("the store holds answers of a newer version; this process needs it, too")
        self._figures.outdated = True
        message = "A newer version of the server has made this answer; ask again."
        raise Unavailable(message, "server_outdated", retry_after=1)

    # What is sent to their owners

    def _watched(self, mirror: Mirror) -> None:
        """Note that the first viewer of a mirror has come, or its last one has left."""
        if mirror.channel.ended:
            return
        if mirror.channel.watched:
            self._outbox.notify(mirror.instance, "watch", k=_progress(mirror))
        else:
            kind = "move" if mirror.moving else "unwatch"
            self._outbox.notify(mirror.instance, kind, k=_ref(mirror))

    def _cancel(self, mirror: Mirror) -> None:
        self._outbox.notify(mirror.instance, "cancel", k=_ref(mirror))

    def repair(self, mirror: Mirror) -> None:
        """Ask for what is missing in the store: the process that has it writes it again."""
        if not mirror.owner_lost:
            self._outbox.notify(mirror.instance, "rewrite", k=_ref(mirror))

    async def _confirm(self, mirror: Mirror) -> None:
        """Wait for the end of a cancelled answer: once it is in the store, everybody sees it."""
        ended = asyncio.Event()
        mirror.on_ended.append(ended.set)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_SECONDS):
                while mirror.outcome is None:
                    self._soil(_ref(mirror), mirror)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(CANCEL_SECONDS / 10):
                            await ended.wait()
                return
        if mirror.outcome is None:
            raise unavailable()

    # What is received here

    def receive(self, kind: str, key: Key, message: Message) -> bool:
        """Handle a message about a mirror; return False if it is about none."""
        mirror = self.present.get(key)
        if mirror is None:
            return False
        if kind == "news":
            self._soil(ref_of(key), mirror)
        elif kind == "unknown" and message.get(b"by") == mirror.instance.encode():
            mirror.owner_lost = mirror.orphaned = True
            self._soil(ref_of(key), mirror)
        elif kind == "notice":
            for viewer in mirror.channel.viewers():
                viewer.connection.send(message.get(b"p", b"{}"), CHAT)
        return kind in {"news", "notice", "unknown"}

    # Once a second

    def look(self) -> None:
        """Read what is watched, whether or not there was a hint; drop what nobody watches."""
        now = time.monotonic()
        shown: dict[str, list[str]] = {}
        for key, mirror in tuple(self.present.items()):
            if mirror.channel.watched:
                self._soil(ref_of(key), mirror, soon=False)
                if not mirror.channel.ended:
                    shown.setdefault(mirror.instance, []).append(_progress(mirror))
            elif now - mirror.idle_since > (ENDED_SECONDS if mirror.outcome else IDLE_SECONDS):
                del self.present[key]
        for instance, known in shown.items():
            for at in range(0, len(known), _TOGETHER):
                self._outbox.notify(instance, "watch", k="\n".join(known[at : at + _TOGETHER]))

    # Memory

    def unwatched(self, share: Share | None) -> Iterator[None]:
        """See `Remote`: the store still has what they held."""
        before = time.monotonic() - LOAD_SECONDS  # others are being loaded to be watched
        idle = [
            key
            for key, mirror in self.present.items()
            if share in {None, mirror.account.share}
            and not mirror.channel.watched
            and mirror.idle_since < before
        ]
        for key in idle:
            del self.present[key]
            yield

    def watched(self, share: Share | None) -> list[WatchedAnswer]:
        """See `Remote`."""
        return [
            mirror
            for mirror in self.present.values()
            if share in {None, mirror.account.share} and mirror.channel.watched
        ]

    @property
    def owners(self) -> list[str]:
        """The processes that own running answers shown here."""
        return sorted({m.instance for m in self.present.values() if m.outcome is None})

    @property
    def waited_for(self) -> bool:
        """Whether somebody watches a mirror that has not ended."""
        return any(m.outcome is None and m.channel.watched for m in self.present.values())

    async def seal(self, dead: set[str]) -> None:
        """End the answers of dead processes.

        Raises:
            StoreError: nobody knows what came of it.
        """
        for key, mirror in tuple(self.present.items()):
            if mirror.instance in dead and mirror.outcome is None:
                await self._seal(key, mirror)

    async def _seal(self, key: Key, mirror: Mirror) -> None:
        """End an answer whose owner is dead; the store refuses whatever the owner still sends."""
        ref = ref_of(key)
        entry = Entry(mirror.channel.number + 1, seal=True)
        fields = [part for pair in entry.encode().items() for part in pair]
        replies = await self._store.run(
            ("XADD", self._store.key("a", ref), SEAL_ID, *fields),
            ("EXPIRE", self._store.key("a", ref), self._kept),
            ("EXPIRE", self._store.key("m", ref), self._kept),
            ("SET", self._store.key("g", ref), SEALED_MARK, "EX", self._kept + GONE_SECONDS),
        )
        if not isinstance(replies[0], Exception):
            self._figures.seals += 1
        mirror.owner_lost = True
        self._soil(ref, mirror)


def _ref(mirror: Mirror) -> str:
    return ref_of((mirror.owner, mirror.request_id))


def _progress(mirror: Mirror) -> str:
    """Return how far its fastest viewer is, for its owner."""
    return f"{_ref(mirror)} {mirror.channel.fastest()}"
