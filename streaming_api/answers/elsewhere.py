"""Answers of other processes, and what a call needs first that only they can say. Knows no callers.

Commands and handlers decide at once, from what is here. Where something may be with another
process, the call raises `Elsewhere`: whoever called waits for it, and calls again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from streaming_api.access.client import Client
    from streaming_api.answer_record import Used
    from streaming_api.answers.answer import Answer
    from streaming_api.answers.watched_answer import WatchedAnswer
    from streaming_api.engine.budget import Share
    from streaming_api.errors import ApiError
    from streaming_api.wire.commands import ChatRequest

T = TypeVar("T")


class Elsewhere(Exception):
    """The answer to this call is not here yet; once ``arrive`` is done, the call can be repeated.

    Attributes:
        arrive: waits until the answer is here; raises the ApiError that a client is shown.
    """

    def __init__(self, arrive: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self.arrive = arrive

    def holding(self, size: int, share: Share) -> Elsewhere:
        """Return the same, with so many bytes of a request counted as long as it waits."""

        async def arrive() -> None:
            with share.holding(size, share.budget.requests):
                await self.arrive()

        return Elsewhere(arrive)


async def when_arrived(call: Callable[[], T]) -> T:
    """Return the result of a call; repeat it whenever what it lacked has arrived."""
    while True:
        try:
            return call()
        except Elsewhere as elsewhere:
            await elsewhere.arrive()


Key = tuple[str, str]
"""The owner of an answer, and its ``request_id``."""


class Remote(Protocol):
    """Answers of other processes of this service."""

    def get(self, key: Key) -> WatchedAnswer | None:
        """Return an answer of another process if it is mirrored here."""

    def absent(self, key: Key) -> ApiError | None:
        """Return why an answer is not there if `fetch` has just found that it is not."""

    async def fetch(self, key: Key) -> None:
        """Mirror an answer here, or find out that it is `absent`.

        Raises:
            Unavailable: that cannot be found out now.
        """

    def may_start(self, request: ChatRequest, client: Client) -> bool:
        """Return whether an answer may be started here: nobody else can start it as well."""

    def running_elsewhere(self, owner: str) -> int:
        """Return how many answers of a key run in other processes."""

    def refused(self, request: ChatRequest, client: Client) -> None:
        """Note that an answer is not started here, though it may have been claimed."""

    async def claim(self, request: ChatRequest, client: Client) -> None:
        """Make sure that nobody else starts this answer, or mirror theirs here.

        Raises:
            TooMany: the key has reached one of its limits, in all processes together.
            Unavailable: that cannot be found out now.
        """

    def started(self, answer: Answer) -> None:
        """Note that an answer runs here."""

    def ended(self, answer: Answer) -> None:
        """Note that it has ended, but for its last message."""

    def spent(self, record: Used) -> None:
        """Note what a key has used, for all processes."""

    def forget(self, answer: WatchedAnswer) -> None:
        """Stop keeping an answer."""

    def unwatched(self, share: Share | None) -> Iterator[None]:
        """Drop mirrors that nobody watches, of one share or of all, one after the other."""

    def watched(self, share: Share | None) -> list[WatchedAnswer]:
        """Return mirrors that somebody watches, of one share or of all."""
