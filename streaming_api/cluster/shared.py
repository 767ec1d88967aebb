"""Tickets and Idempotency-Keys that hold on every process: the store decides on each."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson

from streaming_api.answers.elsewhere import Elsewhere
from streaming_api.answers.idempotency import Binding
from streaming_api.cluster.connection import Command, StoreError
from streaming_api.cluster.meta import ref_of
from streaming_api.cluster.store import RUNNING_SECONDS, Store
from streaming_api.errors import Unavailable

TICKET_SECONDS: Final = 30
_RELEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""

_UNRESERVE: Final = """
if redis.call('HGET', KEYS[1], 'instance') == ARGV[1] and redis.call('HEXISTS', KEYS[1], 'v') == 0
then return redis.call('DEL', KEYS[1]) end
return 0
"""

Ask = Callable[..., Awaitable[list[Any]]]


def unavailable() -> Unavailable:
    """Return the error for a store that cannot be asked."""
    message = "The store that the servers share does not answer; try again."
    return Unavailable(message, "store_unavailable", retry_after=1)


class Tickets:
    """Tickets by their digest, so that whoever reads the store gains none.

    Args:
        ask: asks the store in a task of our own.
    """

    def __init__(self, store: Store, ask: Ask) -> None:
        self._store = store
        self._ask = ask

    async def share(self, ticket: str, owner: str) -> bool:
        """Make a ticket valid on every process; return whether that could be done."""
        try:
            await self._ask(("SET", self._key(ticket), owner, "EX", TICKET_SECONDS))
        except StoreError:
            return False
        return True

    async def redeem(self, ticket: str) -> str | None:
        """Use up a ticket; return its owner, or None if it is unknown, used or too old.

        Raises:
            StoreError: the store cannot be asked, or gives no answer.
        """
        (owner,) = await self._ask(("GETDEL", self._key(ticket)))
        return None if owner is None else str(owner.decode())

    def _key(self, ticket: str) -> str:
        digest = hashlib.sha256(ticket.encode(errors="surrogateescape")).hexdigest()
        return self._store.key("t", digest)


class SharedBindings:
    """What Idempotency-Keys are bound to.

    Args:
        ask: asks the store in a task of our own.
        instance: the name of this process.
        insist: runs a command soon, and again until the store has confirmed it.
    """

    def __init__(
        self, store: Store, instance: str, ask: Ask, insist: Callable[[Command], None]
    ) -> None:
        self._store = store
        self._instance = instance
        self._ask = ask
        self._insist = insist
        self._answers: dict[tuple[str, Binding], Binding | None] = {}

    def claim(self, name: str, binding: Binding, holder: str) -> Binding | None:  # noqa: ARG002 (the store forgets by itself)
        """See `Bindings`.

        Raises:
            Elsewhere: the store has to be asked first.
        """
        wanted = (name, binding)
        if wanted not in self._answers:
            raise Elsewhere(lambda: self._claim(name, binding))
        return self._answers.pop(wanted)

    async def _claim(self, name: str, binding: Binding) -> None:
        value = _encode(binding)
        key = self._store.key("k", name)
        about = self._store.key("m", ref_of((binding.owner, binding.request_id)))
        try:
            # whoever sees the key bound must find the answer, if only as one that is to come
            reserved, _, _, bound = await self._ask(
                ("HSETNX", about, "instance", self._instance),
                ("EXPIRE", about, RUNNING_SECONDS),
                ("SET", key, value, "NX", "EX", RUNNING_SECONDS),
                ("GET", key),
            )
        except StoreError:
            raise unavailable() from None
        # bound to this very question: the call that claimed it had to wait for something else
        ours = bound is None or bound == value
        if reserved and not ours:
            self._unreserve(about)
        self._answers[name, binding] = None if ours else Binding(*orjson.loads(bound))

    def release(self, name: str, binding: Binding) -> None:
        """See `Bindings`."""
        self._insist(("EVAL", _RELEASE, 1, self._store.key("k", name), _encode(binding)))
        self._unreserve(self._store.key("m", ref_of((binding.owner, binding.request_id))))

    def _unreserve(self, about: str) -> None:
        """Give up an id that was reserved here for an answer that has not been started."""
        self._insist(("EVAL", _UNRESERVE, 1, about, self._instance))


def _encode(binding: Binding) -> bytes:
    return orjson.dumps([binding.request_id, binding.digest, binding.owner])
