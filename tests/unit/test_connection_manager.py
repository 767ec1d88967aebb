"""The connection manager: who may come in, who is here, who must go; without real time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_api.config import StreamingConfig
from streaming_api.connections.admission import Slot
from streaming_api.connections.endings import FAULTS, KINDS, CloseReason
from streaming_api.connections.manager import ConnectionManager
from streaming_api.errors import Unavailable
from streaming_api.telemetry.deliveries import Telemetry
from streaming_api.telemetry.process import Process
from tests.fakes.engine import Clock, Pipe, Shown

HERE = "127.0.0.1"


class Client(Shown):
    """A connection that counts its heartbeats, and goes when it is asked to."""

    def __init__(self, manager: ConnectionManager, pipe: Pipe | None = None) -> None:
        super().__init__(pipe, manager=manager)
        self.heartbeats: list[float] = []
        self.stubborn = False

    def heartbeat(self, now: float) -> float:
        """Note it; the next is due in ten seconds."""
        self.heartbeats.append(now)
        return now + 10

    def close(self, ending: CloseReason) -> None:
        """Say goodbye, and be gone at once unless stubborn."""
        super().close(ending)
        self.ending = ending
        if not self.stubborn:
            self.connection_lost(None)


class Small(Process):
    """A process that uses as much memory as it is told."""

    used = 0

    def memory_bytes(self) -> int:
        return self.used


@pytest.fixture
def clock() -> Iterator[Clock]:
    """The time that the manager and its connections see."""
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(time, "monotonic", clock.monotonic)
        yield clock


def new_manager(process: Process | None = None, **settings: object) -> ConnectionManager:
    config = StreamingConfig(**settings)  # type: ignore[arg-type]
    return ConnectionManager(config, Telemetry(), process)


def come(manager: ConnectionManager, kind: str = "sse", address: str = HERE) -> Client:
    connection = Client(manager)
    manager.add(connection, manager.admission.admit(kind, address))
    return connection


async def turns(work: Callable[[], Awaitable[None]], clock: Clock, *pauses: float) -> None:
    """Run endless work, each of its sleeps ended by the clock's moving on so many seconds."""
    steps = iter(pauses)

    async def sleep(_: float) -> None:
        try:
            clock.advance(next(steps))
        except StopIteration:
            raise asyncio.CancelledError from None

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(asyncio.CancelledError):
        patch.setattr(asyncio, "sleep", sleep)
        await work()


class TestAdmission:
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_limit_of_connections_is_reached_by_the_last_that_fits(self, kind: str) -> None:
        manager = new_manager(max_connections=3, sse_max_connections=3)
        slots = [manager.admission.admit(kind, HERE) for _ in range(3)]
        with pytest.raises(Unavailable, match="All 3") as caught:
            manager.admission.admit(kind, HERE)
        assert caught.value.code == "connections"
        assert caught.value.retry_after
        assert manager.telemetry.refusals["connections"] == 1
        manager.admission.give_back(slots.pop())
        manager.admission.admit(kind, HERE)

    def test_one_kinds_limit_is_nothing_to_the_other(self) -> None:
        manager = new_manager(max_connections=1, sse_max_connections=1)
        manager.admission.admit("websocket", HERE)
        manager.admission.admit("sse", HERE)

    def test_one_address_cannot_take_all(self) -> None:
        manager = new_manager(max_connections_per_ip=2)
        slots = [manager.admission.admit(kind, HERE) for kind in KINDS]
        with pytest.raises(Unavailable, match="one address") as caught:
            manager.admission.admit("sse", HERE)
        assert caught.value.code == "per_address"
        manager.admission.admit("sse", "10.0.0.2")
        manager.admission.give_back(slots[0])
        manager.admission.admit("sse", HERE)

    def test_short_of_memory_nobody_more_comes_in(self, clock: Clock) -> None:
        process = Small()
        manager = new_manager(process, memory_gb=1)
        process.used = int(0.9 * 2**30)
        manager.admission.admit("sse", HERE)
        process.used += 2
        manager.admission.admit("sse", HERE)  # it looks once a second
        clock.advance(1.01)
        with pytest.raises(Unavailable, match="memory") as caught:
            manager.admission.admit("sse", HERE)
        assert caught.value.code == "memory"
        process.used = 0
        clock.advance(1.01)
        manager.admission.admit("sse", HERE)

    def test_the_last_descriptors_are_not_for_viewers(self) -> None:
        manager = new_manager()
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        manager.admission.admit("sse", HERE, 20)
        with pytest.raises(Unavailable, match="file descriptors") as caught:
            manager.admission.admit("sse", HERE, soft - 1)
        assert caught.value.code == "descriptors"

    async def test_a_server_that_stops_takes_nobody(self) -> None:
        manager = new_manager()
        await manager.drain(1)
        with pytest.raises(Unavailable, match="stopping") as caught:
            manager.admission.admit("sse", HERE)
        assert caught.value.code == "draining"

    def test_a_slot_that_was_not_taken_is_given_back(self) -> None:
        manager = new_manager(max_connections_per_ip=1)
        for _ in range(3):
            with contextlib.suppress(ConnectionResetError), manager.admission.admit("sse", HERE):
                raise ConnectionResetError
        assert manager.open["sse"] == 0
        assert manager.admission.per_address == {}

    def test_a_refused_connection_takes_no_slot(self) -> None:
        manager = new_manager(max_connections=1)
        manager.admission.admit("websocket", HERE)
        for _ in range(3):
            with pytest.raises(Unavailable):
                manager.admission.admit("websocket", "10.0.0.2")
        assert manager.open["websocket"] == 1
        assert "10.0.0.2" not in manager.admission.per_address

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["come", "fail", "go"]),
                st.sampled_from(KINDS),
                st.sampled_from(["a", "b", "c"]),
            ),
            max_size=60,
        )
    )
    def test_counts_are_right_whoever_comes_and_goes(
        self, steps: list[tuple[str, str, str]]
    ) -> None:
        manager = new_manager(max_connections=4, sse_max_connections=3, max_connections_per_ip=3)
        here: list[tuple[Slot, Client]] = []
        for what, kind, address in steps:
            if what == "go":
                if here:
                    _, connection = here.pop(0)
                    connection.connection_lost(None)
                    connection.connection_lost(None)
                continue
            with contextlib.suppress(Unavailable), manager.admission.admit(kind, address) as slot:
                if what == "come":
                    connection = Client(manager)
                    manager.add(connection, slot)
                    here.append((slot, connection))
        slots = [slot for slot, _ in here]
        for kind in KINDS:
            assert manager.open[kind] == sum(slot.kind == kind for slot in slots)
        assert dict(manager.admission.per_address) == {
            address: count
            for address in "abc"
            if (count := sum(slot.address == address for slot in slots))
        }
        assert set(manager.connections.values()) == {connection for _, connection in here}


class TestRegistry:
    def test_a_connection_has_a_number_of_its_own_and_our_high_water_mark(self) -> None:
        manager = new_manager(buffer_size=1234)
        first, second = come(manager), come(manager)
        assert (first.number, second.number) == (1, 2)
        assert first.pipe.high == 1234
        assert set(manager.present()) == {first, second}
        assert manager.telemetry.accepted["sse"] == 2

    @pytest.mark.parametrize(
        ("error", "ending"), [(None, "client"), (ConnectionResetError(), "broken")]
    )
    def test_who_goes_without_a_word_left_or_broke(
        self, error: Exception | None, ending: str
    ) -> None:
        manager = new_manager()
        come(manager).connection_lost(error)
        assert manager.telemetry.endings["sse", ending] == 1
        assert manager.connections == {}

    def test_an_end_has_one_line_in_the_log_that_says_why(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "streaming_api")
        connection = come(new_manager())
        connection.path = "/evil\r\n2026-01-31 forged"
        connection.connection_lost(None)
        (record,) = caplog.records
        assert "ended: client" in record.getMessage()
        assert "\n" not in record.getMessage()
        assert "\r" not in record.getMessage()

    def test_every_fault_is_an_ending(self) -> None:
        assert set(CloseReason) >= FAULTS

    def test_the_manager_says_how_it_stands(self) -> None:
        manager = new_manager(max_connections=5, sse_max_connections=7)
        come(manager)
        assert repr(manager) == "<ConnectionManager 0 of 5 websocket, 1 of 7 sse>"


class TestHeartbeats:
    async def test_each_connection_has_a_heartbeat_when_it_is_due_and_not_before(
        self, clock: Clock
    ) -> None:
        manager = new_manager()
        connection = come(manager)
        connection.heartbeats.clear()
        await turns(manager.keep_heartbeats, clock, *[1.0] * 25)
        assert [sent - 1000 for sent in connection.heartbeats] == [10, 20]

    async def test_a_heartbeat_can_be_asked_for_earlier(self, clock: Clock) -> None:
        manager = new_manager()
        connection = come(manager)
        connection.heartbeats.clear()
        manager.heartbeat_at(connection, clock.now + 3)
        await turns(manager.keep_heartbeats, clock, *[1.0] * 5)
        assert [sent - 1000 for sent in connection.heartbeats] == [3]

    async def test_who_is_gone_has_no_heartbeat_and_leaves_nothing_behind(
        self, clock: Clock
    ) -> None:
        manager = new_manager()
        for _ in range(100):
            come(manager).connection_lost(None)
        await turns(manager.keep_heartbeats, clock, 11)
        assert manager._heartbeats == []


class TestStalled:
    async def test_who_takes_nothing_for_the_timeout_is_dropped(self, clock: Clock) -> None:
        manager = new_manager(stall_timeout=8)
        stuck, slow, fine = come(manager), come(manager), come(manager)
        stuck.pipe.unsent, slow.pipe.unsent = 1000, 1000

        async def sweep() -> None:
            await turns(manager.keep_sweeping_stalled, clock, 1.0)

        for _ in range(12):
            await sweep()
            slow.pipe.unsent -= 1
        assert stuck.pipe.aborted
        assert stuck.ending == "stalled"
        assert not slow.pipe.aborted
        assert not fine.pipe.aborted

    async def test_nobody_is_dropped_before_the_timeout(self, clock: Clock) -> None:
        manager = new_manager(stall_timeout=8)
        stuck = come(manager)
        stuck.pipe.unsent = 1000
        await turns(manager.keep_sweeping_stalled, clock, *[1.0] * 7)
        assert not stuck.pipe.aborted
        await turns(manager.keep_sweeping_stalled, clock, *[1.0] * 2)
        assert stuck.pipe.aborted

    async def test_what_we_write_is_no_progress_of_the_clients(self, clock: Clock) -> None:
        """Keep-alives and replies go on into the buffer of one that takes nothing."""
        manager = new_manager(stall_timeout=8)
        stuck = Client(manager, Pipe(room=0))
        manager.add(stuck, manager.admission.admit("sse", HERE))
        for _ in range(12):
            stuck.write(b": keep-alive\n\n")
            await turns(manager.keep_sweeping_stalled, clock, 1.0)
        assert stuck.pipe.aborted


class TestIdle:
    async def test_a_connection_without_deliveries_and_messages_is_closed(
        self, clock: Clock
    ) -> None:
        manager = new_manager(cleanup_interval=10, max_idle_time=60)
        idle, sender, reader, alive = (come(manager) for _ in range(4))
        for _ in range(7):
            await turns(manager.keep_sweeping_idle, clock, 10.0)
            sender.received = clock.now
            reader.send(b"{}", "alert")
            alive.write(b": keep-alive\n\n")  # a heartbeat is no delivery
        assert idle.closes == alive.closes == ["idle"]
        assert sender.closes == reader.closes == []

    async def test_who_is_closing_already_is_left_to_it(self, clock: Clock) -> None:
        manager = new_manager(cleanup_interval=10, max_idle_time=60)
        closing = come(manager)
        closing.ending = CloseReason.DRAINED
        await turns(manager.keep_sweeping_idle, clock, *[10.0] * 20)
        assert closing.closes == []


class TestDrain:
    async def test_everybody_is_notified_and_gone(self) -> None:
        manager = new_manager()
        connections = [come(manager) for _ in range(50)]
        await manager.drain(30)
        assert all(connection.closes == ["drained"] for connection in connections)
        assert manager.connections == {}
        assert manager.open["sse"] == 0

    async def test_who_does_not_go_is_dropped_when_the_time_is_over(self) -> None:
        manager = new_manager()
        stubborn, polite = come(manager), come(manager)
        stubborn.stubborn = True
        await manager.drain(0.01)
        assert stubborn.pipe.aborted
        assert not polite.pipe.aborted

    async def test_the_drain_does_not_wait_with_nobody_there(self) -> None:
        async with asyncio.timeout(5):
            await new_manager().drain(1_000)


class TestFigures:
    def test_stability_is_what_was_seen(self) -> None:
        manager = new_manager()
        come(manager).connection_lost(None)
        come(manager).abort(CloseReason.STALLED)
        come(manager).connection_lost(ConnectionResetError())
        assert manager.telemetry.stability() == pytest.approx(200 / 3)
