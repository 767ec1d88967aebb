"""Elsewhere: what a call needs first that only another process can say. Knows no callers.

Commands and handlers decide at once, from what is here. Where something may be with another
process, the call raises `Elsewhere`: whoever called waits for it, and calls again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class Elsewhere(Exception):
    """The answer to this call is not here yet; once ``arrive`` is done, the call can be repeated.

    Attributes:
        arrive: waits until the answer is here; raises the ApiError that a client is shown.
    """

    def __init__(self, arrive: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self.arrive = arrive


async def when_arrived(call: Callable[[], T]) -> T:
    """Return what the call returns, repeating it whenever what it was missing has arrived."""
    while True:
        try:
            return call()
        except Elsewhere as elsewhere:
            await elsewhere.arrive()
