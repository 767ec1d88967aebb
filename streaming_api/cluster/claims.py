"""Claims: who owns an answer, which process may start it, and how many a key may run at once."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Final

import attrs

from streaming_api.answers.answers import gone, not_found
from streaming_api.answers.elsewhere import Key
from streaming_api.cluster import meta as metas
from streaming_api.cluster.claim_scripts import COUNT, DISOWN, RELEASE, RENEW, TAKE
from streaming_api.cluster.connection import Command, StoreError, mapping
from streaming_api.cluster.meta import Meta, ref_of
from streaming_api.cluster.shared import unavailable
from streaming_api.cluster.store import RUNNING_SECONDS
from streaming_api.errors import ApiError, Gone, NotFound, TooMany

if TYPE_CHECKING:
    from streaming_api.access.client import Client
    from streaming_api.answers.answer import Answer
    from streaming_api.cluster.figures import Figures
    from streaming_api.cluster.outbox import Outbox
    from streaming_api.cluster.store import Store
    from streaming_api.wire.commands import ChatRequest

ABSENT_SECONDS: Final = 0.5
"""How long the absence of an answer is remembered, for the call that asked."""
WAIT_SECONDS: Final = 2.0
"""How long it may take until an answer that has been claimed is described."""

Show = Callable[[Key, Meta], Awaitable[None]]


@attrs.frozen
class _Claim:
    """A claim that has not been used.

    Attributes:
        number: distinguishes it from an earlier or a later one for the same id.
        until: monotonic time in seconds at which it must not be used any more: others take a
            claim from a process that is silent for a lease.
        release: gives it up then.
    """

    number: str
    until: float
    release: asyncio.TimerHandle


class Claims:
    """Asks the store who owns answers.

    Args:
        per_key: the number of answers that any key may run at once; 0 for no limit.
        lease: seconds for which a running answer counts without being renewed.
        show: mirrors an answer of another process here.

    Attributes:
        per_key: as above; a reload changes it.
    """

    def __init__(
        self,
        store: Store,
        outbox: Outbox,
        figures: Figures,
        per_key: int,
        lease: float,
        show: Show,
    ) -> None:
        self.per_key = per_key
        self._store = store
        self._outbox = outbox
        self._figures = figures
        self._heartbeat = ("EXISTS", store.key("i", outbox.instance))
        self._lease = lease
        self._show = show
        self._claimed: dict[Key, _Claim] = {}
        self._counted: set[tuple[str, str]] = set()  # names of limits, and ids of answers
        self._asking: dict[tuple[str, Key], asyncio.Task[None]] = {}
        self._absent: dict[Key, ApiError] = {}

    def absent(self, key: Key) -> ApiError | None:
        """Return why an answer is not there, if that has just been found out."""
        return self._absent.get(key)

    def miss(self, key: Key, error: ApiError) -> None:
        """Remember for a moment that an answer is not there."""
        self._absent[key] = error
        asyncio.get_running_loop().call_later(ABSENT_SECONDS, self._absent.pop, key, None)

    async def fetch(self, key: Key) -> None:
        """See `Remote`."""
        try:
            await self._once("fetch", key, lambda: self._fetch(key))
        except (NotFound, Gone) as error:
            self.miss(key, error)

    def may_start(self, request: ChatRequest, client: Client) -> bool:
        """See `Remote`."""
        key = (client.owner, request.request_id)
        claim = self._claimed.get(key)
        if claim is not None and claim.until > time.monotonic():
            self._claimed.pop(key).release.cancel()
            return True
        return not request.chosen and not self._is_limited(client)

    def refused(self, request: ChatRequest, client: Client) -> None:
        """See `Remote`."""
        key = (client.owner, request.request_id)
        claim = self._claimed.get(key)
        if claim is not None:
            claim.release.cancel()
            self._release(key, client.name, claim.number)

    def _is_limited(self, client: Client) -> bool:
        key = client.key
        return bool(self.per_key or (key is not None and (key.answers or key.has_tokens)))

    async def claim(self, request: ChatRequest, client: Client) -> None:
        """See `Remote`."""
        key = (client.owner, request.request_id)
        await self._once("claim", key, lambda: self._claim(key, request, client))

    def ended(self, answer: Answer) -> None:
        """Count an answer no longer."""
        self._uncount(answer.asked_by, answer.request_id)

    def renew(self) -> list[Command]:
        """Return the commands that keep running answers counted."""
        lease = round(self._lease)
        return [
            ("EVAL", RENEW, 1, self._store.key("q", name), request_id, lease)
            for name, request_id in self._counted
        ]

    def _uncount(self, name: str, request_id: str) -> None:
        if (name, request_id) in self._counted:
            self._counted.discard((name, request_id))
            self._outbox.insist(("ZREM", self._store.key("q", name), request_id))

    async def _once(
        self, what: str, key: Key, ask: Callable[[], Coroutine[None, None, None]]
    ) -> None:
        """Ask the store in a task of our own: a client that leaves cancels only its own wait."""
        task = self._asking.get((what, key))
        if task is None:
            task = self._asking[what, key] = asyncio.create_task(ask(), name=f"cluster {what}")
            task.add_done_callback(lambda done: self._asked(what, key, done))
        await asyncio.shield(task)

    def _asked(self, what: str, key: Key, done: asyncio.Task[None]) -> None:
        del self._asking[what, key]
        if not done.cancelled():
            done.exception()  # whoever waits gets the error; if nobody waits, nobody needs it

    async def _fetch(self, key: Key) -> None:
        ref = ref_of(key)
        until = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                found, was, lives = await self._outbox.ask(
                    ("HGETALL", self._store.key("m", ref)),
                    ("EXISTS", self._store.key("g", ref)),
                    self._heartbeat,
                )
            except StoreError:
                raise unavailable() from None
            if not found and was:
                raise gone(key[1])
            if not found:
                raise unavailable() if self._has_lost(lives) else not_found(key[1])
            fields = mapping(found)
            if b"v" in fields:
                await self._show(key, metas.decode(key[1], fields))
                return
            if time.monotonic() > until:
                await self._disown(ref, fields[b"instance"].decode())
                raise unavailable()
            await asyncio.sleep(WAIT_SECONDS / 100)  # somebody has claimed it just now

    def _has_lost(self, heartbeat: object) -> bool:
        """Return whether the store may have lost what we look for, as our heartbeat may be."""
        return self._figures.recovering or (self._figures.joined and not heartbeat)

    async def _claim(self, key: Key, request: ChatRequest, client: Client) -> None:
        number = secrets.token_hex(8)
        while True:
            until = time.monotonic() + self._lease / 2
            try:
                await self._count(client, key[1])
                mine = await self._take(key, number, chosen=request.chosen)
            except StoreError:
                if request.chosen:
                    self._uncount(client.name, key[1])
                    raise unavailable() from None
                mine = True  # nobody else can have an id made here; limits are this process's
            if mine:
                break
            self._uncount(client.name, key[1])
            with contextlib.suppress(NotFound, Gone):  # who had claimed it has given it up
                await self._fetch(key)
                return
        release = asyncio.get_running_loop().call_later(
            until - time.monotonic(), self._release, key, client.name, number
        )
        self._claimed[key] = _Claim(number, until, release)

    async def _take(self, key: Key, number: str, *, chosen: bool) -> bool:
        """Take an id, described once it is used; return False if another process has it.

        Raises:
            StoreError: the store cannot be asked, or may have lost who has it.
        """
        ref = ref_of(key)
        about = self._store.key("m", ref)
        taken, lives = await self._outbox.ask(
            ("EVAL", TAKE, 2, about, self._store.key("g", ref),
             self._outbox.instance, number, RUNNING_SECONDS),
            self._heartbeat,
        )  # fmt: skip
        if taken and chosen and self._has_lost(lives):
            self._outbox.insist(("EVAL", RELEASE, 1, about, number))
            message = "The store has lost something; it is written again."
            raise StoreError(message)
        return bool(taken)

    async def _disown(self, ref: str, instance: str) -> None:
        """Take an id from a process that is gone and has not used it."""
        with contextlib.suppress(StoreError):
            (lives,) = await self._outbox.ask(("EXISTS", self._store.key("i", instance)))
            if not lives:
                await self._outbox.ask(("EVAL", DISOWN, 1, self._store.key("m", ref), instance))

    def _release(self, key: Key, name: str, number: str) -> None:
        """Release a claim that nobody uses: the start was refused, or its client has left."""
        self._claimed.pop(key, None)
        self._uncount(name, key[1])
        about = self._store.key("m", ref_of(key))
        self._outbox.insist(("EVAL", RELEASE, 1, about, number))

    async def _count(self, client: Client, request_id: str) -> None:
        """Count an answer among those of its key.

        Raises:
            TooMany: as many run as may.
            StoreError: the store cannot be asked.
        """
        own = 0 if client.key is None else client.key.answers
        most = min((limit for limit in (self.per_key, own) if limit), default=0)
        if not most:
            return
        name = self._store.key("q", client.name)
        (counted,) = await self._outbox.ask(
            ("EVAL", COUNT, 1, name, most, request_id, round(self._lease))
        )
        if not counted:
            message = f"{most} answers are running for this key; wait for one to end."
            raise TooMany(message, "too_many_answers", retry_after=1)
        self._counted.add((client.name, request_id))
