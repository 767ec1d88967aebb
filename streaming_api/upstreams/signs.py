"""Signs: what answers say about how an upstream is; they say it best. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from streaming_api.upstreams.answer import AnswerReader
from streaming_api.upstreams.reply_errors import UpstreamFault

RECENT: Final = 60.0
"""Seconds for which an answer says that the upstream is up."""
UNREACHABLE: Final = "upstream_unreachable"
_SILENT: Final = frozenset({UNREACHABLE, "upstream_timeout", "upstream_disconnected"})
"""Faults of an answer, begun or not, after which nothing shows any more that the upstream is up."""
_WRONG_ADDRESS: Final = frozenset({404, 405})
_WRONG_KEY: Final = frozenset({401, 403})


class Signs:
    """How the newest answers went.

    Args:
        doubted: called after a change that is a reason to check the upstream again.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        doubted: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._doubted = doubted
        self._clock = clock
        self._running: set[AnswerReader] = set()
        self._answered: float | None = None
        self._fault: UpstreamFault | None = None
        self._address = ""
        self._list_fault: UpstreamFault | None = None
        self._unlisted: tuple[int | None, str | None] | None = None

    @contextmanager
    def during(self, answer: AnswerReader, address: str, *, our_key: bool) -> Iterator[None]:
        """Note an answer while it comes, and how it ended.

        Args:
            answer: reads it.
            address: what was asked.
            our_key: whether it was asked with the configured key, not one that a client brought.
        """
        self._running.add(answer)
        try:
            yield
        finally:
            self._running.discard(answer)
            if our_key or answer.error is None or answer.error.status not in _WRONG_KEY:
                self._note(answer, address)

    def _note(self, answer: AnswerReader, address: str) -> None:
        error = answer.error
        if error is not None and error.code in _SILENT:
            self._answered, self._fault, self._address = None, error, address
            self._doubted()
        elif answer.content_chunks or (error is None and answer.finish_reason is not None):
            was_doubtful = self._fault is not None or self._list_fault is not None
            self._answered, self._fault = self._clock(), None
            self._unlisted = _kind(self._list_fault)
            if was_doubtful:
                self._doubted()
        elif error is not None:
            self._fault, self._address = error, address
            if error.status in _WRONG_ADDRESS | _WRONG_KEY:
                self._doubted()

    def listed(self, fault: UpstreamFault | None) -> None:
        """Note how a request for the list of models ended: with a fault, or None."""
        self._list_fault = fault

    @property
    def complaint(self) -> str | None:
        """The failure of the newest answer, where it shows that something is set up wrongly.

        The upstream's own words stay with who asked: they may quote the question.
        """
        fault = self._fault
        if fault is None or fault.status is None:
            return None
        said = f"The newest answer failed: {fault.status} from {self._address}"
        if fault.status in _WRONG_KEY:
            return f"{said}; is monitoring.api_gateway_key right?"
        if fault.status in _WRONG_ADDRESS or fault.status >= 500:
            return f"{said}."
        return None

    @property
    def outweigh_the_list(self) -> bool:
        """Whether answers say that the upstream is up, although its list of models fails.

        They do as long as one comes or has just come; and a list that failed in the same way
        when one came says nothing at all.
        """
        fault = self._list_fault
        if fault is not None and fault.code == UNREACHABLE:
            return False
        if any(answer.content_chunks for answer in self._running):
            return True
        if self._answered is None or self._fault is not None:
            return False
        return self._clock() - self._answered < RECENT or _kind(fault) == self._unlisted


def _kind(fault: UpstreamFault | None) -> tuple[int | None, str | None] | None:
    return None if fault is None else (fault.status, fault.code)
