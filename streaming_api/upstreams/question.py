"""What is asked of an upstream, and who makes sense of the reply; knows neither HTTP nor chat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import attrs

from streaming_api.upstreams.reply_errors import UpstreamFault


class Reader(Protocol):
    """Makes sense of a reply's body.

    Attributes:
        over: nothing that still comes matters.
        error: the fault that ended it, if one did.
        repaired: how often something that UTF-8 JSON cannot say was replaced.
    """

    over: bool
    error: UpstreamFault | None
    repaired: int

    def read(self, data: bytes) -> list[bytes]:
        """Take bytes of an event stream; return what is to be passed on."""

    def read_end(self, *, delimited: bool) -> list[bytes]:
        """Take the end of an event stream that was not cut; return what is to be passed on.

        ``delimited``: the body said itself where it ends.
        """

    def read_whole(self, body: bytes) -> list[bytes]:
        """Take a complete JSON body; return what is to be passed on."""

    def fail(self, error: UpstreamFault) -> None:
        """End the reply with this fault."""


R = TypeVar("R", bound=Reader)


@attrs.frozen
class Question(Generic[R]):
    """What is asked, but for the request's body.

    Attributes:
        address: where it goes, for people.
        request: makes the request of a body.
        reader: makes the reader of a reply.
        max_body: bytes of a reply that is read whole.
        streamed: whether an event stream is asked for.
    """

    address: str
    request: Callable[[bytes], bytes]
    reader: Callable[[], R]
    max_body: int
    streamed: bool = False
