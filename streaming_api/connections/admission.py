"""Admission: who may come in, before any upgrade; refusals are counted and logged by reason.

Knows no HTTP and none of the connections that are here.
"""

from __future__ import annotations

import logging
import math
import resource
import time
from collections import Counter, defaultdict
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from streaming_api.access import audit
from streaming_api.connections.endings import (
    COUNTED_ELSEWHERE,
    CREDENTIAL,
    KINDS,
    REASON_OF,
    REFUSALS,
)
from streaming_api.errors import ApiError, Forbidden, Unauthorized, Unavailable, UpstreamError
from streaming_api.telemetry.process import Process

if TYPE_CHECKING:
    from streaming_api.config import StreamingConfig
    from streaming_api.telemetry.deliveries import Telemetry

logger = logging.getLogger(__name__)

REFUSALS_LOGGED_SECONDS: Final = 5.0
"""Seconds within which each reason gets at most one log line, with the number of refusals."""
_SPARE_DESCRIPTORS: Final = 64
"""File descriptors reserved for upstreams, sources, files, and clients that come and go."""
_LAST_DESCRIPTORS: Final = 32
"""The part of the reserve that no client gets."""
_MOST_RESERVED: Final = 5
"""The last connections of a kind; only keys with ``admin`` get them, so an operator can look."""
_GIB: Final = 2**30


class Slot:
    """A connection's place among the limits, held from admission until it is gone."""

    __slots__ = ("_admission", "address", "kind", "taken")

    def __init__(self, admission: Admission, kind: str, address: str) -> None:
        self._admission = admission
        self.kind = kind
        self.address = address
        self.taken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self.taken:
            self._admission.give_back(self)


class Admission:
    """The limits on connections, and how much of them is taken.

    Args:
        config: the limits.
        telemetry: notified of refusals.
        process: knows how much memory is used.

    Attributes:
        limits: the maximum number of connections, by kind.
        open: the number of connections, by kind.
        draining: whether this server is stopping.
        full: addresses that have as many connections as they may, in all processes together.
        per_address: the number of connections, by address.
    """

    def __init__(self, config: StreamingConfig, telemetry: Telemetry, process: Process) -> None:
        self.config = config
        self.telemetry = telemetry
        self._process = process
        self.limits = {"websocket": config.max_connections, "sse": config.sse_max_connections}
        self.open: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        self.draining = False
        self.full: frozenset[str] = frozenset()
        self.per_address: Counter[str] = Counter()
        self._memory: tuple[float, int] = (0.0, 0)
        self._descriptors = _most_descriptors()
        self._logged: dict[str, tuple[int, float]] = {}  # refusals: how many, and when
        self._refused: defaultdict[str, audit.RefusedClients] = defaultdict(audit.RefusedClients)

    def apply(self, config: StreamingConfig) -> None:
        """Apply this configuration from now on."""
        self.config = config
        self.limits.update(websocket=config.max_connections, sse=config.sse_max_connections)

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.open[kind]} of {self.limits[kind]} {kind}" for kind in KINDS)
        return f"<Admission {counts}>"

    def admit(self, kind: str, address: str, descriptor: int = 0, *, admin: bool = True) -> Slot:
        """Reserve a slot for one more connection.

        Args:
            kind: ``websocket`` or ``sse``.
            address: the client's address.
            descriptor: of its socket: the kernel gives the lowest free one, so a high one says that
                few are left.
            admin: whether it may take one of the last slots.

        Raises:
            Unavailable: a limit is reached; raised before any upgrade.
        """
        self._refuse_if(self.draining, "draining", "This server is stopping; connect again.", 1)
        limit = self.limits[kind]
        self._refuse_if(
            self.open[kind] >= limit - (0 if admin else min(_MOST_RESERVED, limit // 20)),
            "connections",
            f"All {limit} {kind} connections are taken; try again later.",
            5,
        )
        per_address = self.config.max_connections_per_ip
        self._refuse_if(
            bool(per_address)
            and (self.per_address[address] >= per_address or address in self.full),
            "per_address",
            f"{per_address} connections from one address are the limit; close one.",
            5,
        )
        self._refuse_if(
            self.is_short(),
            "memory",
            "The server is short of memory; try again later.",
            30,
        )
        self._refuse_if(
            descriptor >= self._descriptors - _SPARE_DESCRIPTORS,
            "descriptors",
            "The server is short of file descriptors; try again later.",
            5,
        )
        self.open[kind] += 1
        self.per_address[address] += 1
        return Slot(self, kind, address)

    def _refuse_if(self, reached: bool, reason: str, message: str, retry_after: float) -> None:  # noqa: FBT001
        if reached:
            self.telemetry.refused(reason)
            raise Unavailable(message, reason, retry_after=retry_after)

    def is_last_descriptor(self, descriptor: int) -> bool:
        """Return whether a connection with this descriptor must not even be read from."""
        return descriptor >= self._descriptors - _LAST_DESCRIPTORS

    def refused(self, error: ApiError, address: str, owner: str) -> None:
        """Note whose an error is, if it is a refusal; count it, if nothing else counts such ones.

        Args:
            error: ours; an upstream's is none.
            address: the client's; "" if what it sent was not even a request.
            owner: the name of its key; "" if none is known.
        """
        if isinstance(error, UpstreamError):
            return
        reason = REASON_OF.get(error.code)
        if reason is None and isinstance(error, Unauthorized | Forbidden):
            reason = CREDENTIAL
        if reason is not None:
            self.telemetry.refused(reason)
        elif error.code in COUNTED_ELSEWHERE:
            reason = error.code
        if reason is not None and address:
            self._refused[reason].add(error.code, address, owner)

    def log_refusals(self, *, now: float | None = None) -> None:
        """Log one line for each reason with new refusals.

        Args:
            now: monotonic time in seconds; reasons logged shortly before wait. None: log all.
        """
        for reason, count in self.telemetry.refusals.items():
            logged, when = self._logged.get(reason, (0, -REFUSALS_LOGGED_SECONDS))
            due = now is None or now - when >= REFUSALS_LOGGED_SECONDS
            if count > logged and due:
                self._logged[reason] = (count, 0.0 if now is None else now)
                clients = self._refused[reason].taken(count - logged)
                (audit.logger if reason == CREDENTIAL else logger).warning(
                    "refused %d times: %s%s",
                    count - logged, REFUSALS.get(reason, reason), clients and f": {clients}",
                )  # fmt: skip

    def is_short(self) -> bool:
        """Return whether the process is above 90 % of its memory limit."""
        return self._memory_used() > 0.9 * self.config.memory_gb * _GIB

    def measure_again(self) -> None:
        """Forget what was measured: memory has been given back."""
        self._memory = (0.0, 0)

    def _memory_used(self) -> int:
        now = time.monotonic()
        if now - self._memory[0] > 1:
            self._memory = (now, self._process.memory_bytes())
        return self._memory[1]

    def give_back(self, slot: Slot) -> None:
        """Release a slot."""
        self.open[slot.kind] -= 1
        self.per_address[slot.address] -= 1
        if self.per_address[slot.address] <= 0:
            del self.per_address[slot.address]


def _most_descriptors() -> float:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else soft
