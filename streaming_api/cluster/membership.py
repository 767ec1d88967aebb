"""Membership: which processes are alive, and when the answers of a dead one may be ended.

The heartbeat comes from a thread of its own, so that a busy event loop is not taken for a dead
process; a loop that has not turned for 3 s is.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from streaming_api.cluster.connection import REPLY_SECONDS, reason_of
from streaming_api.cluster.figures import Figures
from streaming_api.cluster.store import INBOX_SECONDS, Store

HEARTBEAT_SECONDS: Final = 1.0
HANG_SECONDS: Final = 3.0
LOOK_SECONDS: Final = 2.0
"""How long a process must be seen to be missing before its answers are ended."""


class Membership:
    """Keeps this process among those that are alive.

    Args:
        instance: the name of this process, new at each start.
        lease: seconds after which it counts as dead if it sends no heartbeat.
        on_restarted: called in the thread when the store has restarted, or is another one.
        on_lost: called in the thread when the store, still the same, has lost or dropped keys.

    Attributes:
        evicts: the policy by which the store drops keys; None if it drops none.
        failed: why the last heartbeat failed; None if it did not.
        beats: how many were sent.
    """

    def __init__(
        self,
        store: Store,
        instance: str,
        lease: float,
        on_restarted: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._store = store
        self._instance = instance
        self._lease = lease
        self._on_restarted = on_restarted
        self._on_lost = on_lost
        self._turned = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cluster heartbeat", daemon=True)
        self._run_id: object = None
        self._evicted: object = None
        self._sent = -lease
        self.evicts: str | None = None
        self.failed: str | None = None
        self.beats = 0

    def start(self) -> None:
        """Begin to send heartbeats."""
        self._thread.start()

    def turned(self) -> None:
        """Note that the event loop turns."""
        self._turned = time.monotonic()

    @property
    def joined(self) -> bool:
        """Whether a heartbeat has been sent."""
        return self._run_id is not None

    def stop(self) -> None:
        """Stop sending heartbeats; the store forgets this process at once."""
        self._stop.set()
        self._thread.join(2 * REPLY_SECONDS)

    def _run(self) -> None:
        client = redis.Redis.from_url(
            self._store.url,
            socket_timeout=REPLY_SECONDS,
            socket_connect_timeout=REPLY_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        pause = 0.0
        while not self._stop.wait(pause):
            pause = HEARTBEAT_SECONDS
            if time.monotonic() - self._turned < HANG_SECONDS:
                try:
                    self._beat(client)
                    self.failed = None
                except (redis.RedisError, OSError) as error:
                    self.failed = reason_of(error)
                    pause = HEARTBEAT_SECONDS / 4  # the lease goes on meanwhile
        with contextlib.suppress(redis.RedisError, OSError):
            client.delete(self._store.key("i", self._instance))
        client.close()

    def _beat(self, client: redis.Redis) -> None:
        sent = time.monotonic()
        self.beats += 1
        pipeline = client.pipeline(transaction=False)
        milliseconds = round(self._lease * 1000)
        pipeline.set(self._store.key("i", self._instance), 1, px=milliseconds, get=True)
        pipeline.expire(self._store.key("x", self._instance), INBOX_SECONDS)
        for section in ("server", "stats", "memory"):
            pipeline.info(section)
        before, _, server, stats, memory = pipeline.execute()
        policy = memory.get("maxmemory_policy", "noeviction")
        self.evicts = policy if policy != "noeviction" else None
        forgotten = before is None and time.monotonic() - self._sent < self._lease
        if self._run_id not in {None, server.get("run_id")}:
            self._on_restarted()
        elif self._run_id is not None and (forgotten or stats.get("evicted_keys") != self._evicted):
            self._on_lost()
        self._run_id, self._evicted, self._sent = (
            server.get("run_id"),
            stats.get("evicted_keys"),
            sent,
        )


class Missing:
    """Which processes have been missing, and for how long, as seen from here.

    Args:
        lease: how long the store must have been the same, and answered, before absence counts:
            after an empty restart all are missing at once, and come back within this time.
    """

    def __init__(self, figures: Figures, lease: float) -> None:
        self._figures = figures
        self._lease = lease
        self._since: dict[str, float] = {}

    def saw(self, alive: dict[str, bool]) -> set[str]:
        """Note which processes are alive; return those that are dead."""
        now = time.monotonic()
        self._since = {
            instance: self._since.get(instance, now)
            for instance, lives in alive.items()
            if not lives
        }
        stable = self._figures.up and now - self._figures.stable_since >= self._lease
        return {
            instance
            for instance, since in self._since.items()
            if stable and now - max(since, self._figures.stable_since) >= LOOK_SECONDS
        }
