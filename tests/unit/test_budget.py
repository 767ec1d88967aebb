"""The budget: what is given up for whom, in which order, and no more than is needed."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

import pytest

from streaming_api.access.client import Client
from streaming_api.access.rates import Bucket
from streaming_api.answers.answer import Answer
from streaming_api.answers.answers import Answers
from streaming_api.answers.elsewhere import Elsewhere
from streaming_api.cluster.entries import Entry
from streaming_api.cluster.mirror import Mirror
from streaming_api.config import StreamingConfig
from streaming_api.connections.admission import Slot
from streaming_api.connections.endings import CloseReason
from streaming_api.connections.manager import ConnectionManager
from streaming_api.engine.budget import ANSWER_BYTES, MESSAGE_BYTES, Account, Budget, Share
from streaming_api.engine.stream import Policy, Stream
from streaming_api.engine.viewer import Viewer
from streaming_api.errors import TooLarge, TooMany, Unavailable
from streaming_api.faces.ui_chats import stream_of
from streaming_api.telemetry.deliveries import Telemetry
from streaming_api.upstreams.upstream import Upstream
from streaming_api.wire import framing
from streaming_api.wire.commands import ChatRequest, OnDisconnect
from streaming_api.wire.messages import Encoder
from tests.fakes.engine import AMPLE, Pipe, Shown, channel

KIB: Final = 2**10
LIMIT: Final = 1024 * KIB
QUARTER: Final = LIMIT // 4
CHUNK: Final = b'{"choices":[{"index":0,"delta":{"content":"%b"}}]}' % (b"x" * (8 * KIB))


class Application:
    """Answers that nobody fills but the test, and connections that take what it says."""

    def __init__(self, retention: int = 4 * 2**20) -> None:
        config = StreamingConfig(
            api_gateway_endpoint="http://127.0.0.1:9", chat_retention_bytes=retention
        )
        self.budget = Budget(LIMIT)
        self.manager = ConnectionManager(config, budget=self.budget)
        self.answers = Answers(
            config, Upstream(config), lambda epoch: channel(epoch=epoch), Telemetry(), self.budget
        )

    def start(self, name: str, request_id: str) -> Answer:
        client = Client("", frozenset(), name, Bucket(0, 0))
        request = ChatRequest(request_id, "m", b"{}", on_disconnect=OnDisconnect.FINISH)
        answer = self.answers.start(request, client)
        assert isinstance(answer, Answer)
        return answer

    def watch(self, answer: Answer, room: int | None = None) -> Shown:
        """Watch; where the kernel has no room, be behind from the first message on."""
        shown = Shown(Pipe(room), manager=self.manager)
        shown.write(b"x")
        answer.watch(shown, 0)
        return shown

    def fill(self, answer: Answer, size: int) -> None:
        """Let the upstream say about so many bytes."""
        answer._chunks([CHUNK] * (size // len(CHUNK)))
        self.answers.turn.end()
        if answer.share.over:
            self.answers.has_room(answer)


@asynccontextmanager
async def application(retention: int = 4 * 2**20) -> AsyncIterator[Application]:
    made = Application(retention)
    try:
        yield made
    finally:
        for answer in made.answers.present:
            answer.cancel()
        await asyncio.sleep(0)


async def end(answer: Answer) -> None:
    answer.cancel()
    await asyncio.wait([answer.task])
    await asyncio.sleep(0)


class TestWhatIsGivenUp:
    async def test_what_has_ended_is_given_up_first_the_oldest_first_and_no_more_than_is_needed(
        self,
    ) -> None:
        async with application() as here:
            for number in range(8):
                answer = here.start(f"address {number}", f"a-{number}")
                here.fill(answer, 96 * KIB)
                await end(answer)
            running = here.start("another", "running")
            here.fill(running, 96 * KIB)
            del answer
            here.budget.share("asking").check(QUARTER)
            kept = [answer.request_id for answer in here.answers.present]
            assert kept == ["a-2", "a-3", "a-4", "a-5", "a-6", "a-7", "running"]
            assert len(running.stream) > 5

    async def test_what_watchers_of_a_running_answer_have_seen_is_given_up_next(self) -> None:
        async with application() as here:
            answers = [here.start(f"address {n}", f"a-{n}") for n in range(4)]
            fast = [here.watch(answer) for answer in answers]
            slow = here.watch(answers[3], room=0)
            for answer in answers:
                here.fill(answer, 232 * KIB)
            here.budget.share("asking").check(QUARTER)
            assert [len(answer.stream) == 0 for answer in answers] == [True, True, False, False]
            assert not any(shown.closes for shown in [*fast, slow])

    async def test_slow_viewers_of_evicted_answers_go_then(self) -> None:
        async with application() as here:
            slow = []
            for number in range(4):
                answer = here.start(f"address {number}", f"a-{number}")
                slow.append(here.watch(answer, room=0))
                here.fill(answer, 232 * KIB)
                await end(answer)
            del answer
            assert here.budget.kept.bytes > 3 * QUARTER
            here.budget.share("asking").check(QUARTER)
            ends = [shown.closes for shown in slow]
            assert [CloseReason.TOO_SLOW] in ends
            assert [] in ends, "and no more than are needed"
            assert here.budget.bytes <= LIMIT - QUARTER

    async def test_slow_viewers_of_running_answers_go_last_of_the_largest_first(self) -> None:
        async with application() as here:
            sizes = (200, 240, 160, 232)
            answers = [here.start(f"address {n}", f"a-{n}") for n in range(4)]
            slow = [here.watch(answer, room=0) for answer in answers]
            for answer, size in zip(answers, sizes, strict=True):
                here.fill(answer, size * KIB)
            here.budget.share("asking").check(QUARTER)
            assert [bool(shown.closes) for shown in slow] == [False, True, False, False]
            assert slow[1].closes == [CloseReason.TOO_SLOW]
            assert not answers[1].task.done(), "the answer goes on"

    async def test_what_is_given_up_is_ones_own_where_ones_own_share_is_used_up(self) -> None:
        async with application() as here:
            mine: list[Shown] = []
            theirs: list[Shown] = []
            for number in range(2):
                for name, list_ in (("mine", mine), ("theirs", theirs)):
                    answer = here.start(name, f"{name}-{number}")
                    list_.append(here.watch(answer, room=0))
                    here.fill(answer, 90 * KIB)
                    await end(answer)
            del answer
            here.answers.evict()
            here.budget.share("mine").check(QUARTER - 4 * KIB)
            assert [shown.closes for shown in mine] == [[CloseReason.TOO_SLOW]] * 2
            assert not any(shown.closes for shown in theirs)
            assert len(here.answers.present) == 2


class TestARunningAnswer:
    async def test_a_running_answer_goes_on_above_its_share_if_nobody_is_behind_and_holds_nothing(
        self,
    ) -> None:
        async with application() as here:
            answer = here.start("one", "a")
            here.watch(answer)
            for _ in range(20):
                here.fill(answer, 64 * KIB)
                assert answer.account.bytes <= QUARTER + 64 * KIB
            assert not here.answers.waiting

    async def test_a_running_answer_waits_above_its_share_while_somebody_is_behind(self) -> None:
        async with application() as here:
            answer = here.start("one", "a")
            slow = here.watch(answer, room=0)
            here.fill(answer, QUARTER + 16 * KIB)
            assert not here.answers.has_room(answer)
            assert list(here.answers.waiting) == [answer]
            here.answers.read_on()
            assert list(here.answers.waiting) == [answer]
            assert not slow.closes, "there is memory for others"
            slow.pipe.take(None)
            here.answers.read_on()
            assert not here.answers.waiting

    async def test_that_waited_reads_on_if_what_it_may_read_at_once_has_room(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two of those that are behind; whoever keeps up, first of all."""
        async with application() as here:
            behind = [here.start(f"10.0.0.{number}", f"r-{number}") for number in range(5)]
            for answer in behind:
                here.watch(answer, room=0)
                here.fill(answer, len(CHUNK))
            quick = here.start("10.0.0.9", "quick")
            here.watch(quick)
            went_on: list[Answer] = []

            def go_on(answer: Answer) -> None:
                went_on.append(answer)

            monkeypatch.setattr(Answer, "go_on", go_on)
            here.answers.waiting = dict.fromkeys([*behind, quick])
            here.answers.read_on()
            assert went_on == [quick, *behind[:2]]
            here.answers.read_on()
            assert went_on == [quick, *behind[:4]]


class TestARequest:
    def test_a_request_is_refused_for_one_of_several_reasons(self) -> None:
        budget = Budget(LIMIT)
        refused: list[None] = []
        budget.refused = lambda: refused.append(None)
        one = budget.share("one")
        with pytest.raises(TooLarge):
            one.check(QUARTER + 1)
        one.charge(QUARTER, budget.running)
        with pytest.raises(TooMany, match="key or address"):
            one.check(1)
        two = budget.share("two")
        two.charge(QUARTER - 10, budget.requests)
        three = budget.share("three")
        three.charge(QUARTER, budget.input)
        four = budget.share("four")
        with pytest.raises(Unavailable, match="large requests"):
            four.check(11)
        two.charge(10, budget.running)
        four.charge(QUARTER - 10, budget.running)
        with pytest.raises(Unavailable, match="short of memory"):
            budget.share("five").check(11)
        assert len(refused) == 2


class TestConnections:
    async def test_connections_on_which_most_waits_go_until_there_is_room(self) -> None:
        here = Application()
        shown = []
        for number, size in enumerate((300, 250, 240, 230, 200, 3)):
            connection = Shown(Pipe(0), manager=here.manager)
            connection.share = here.budget.share(f"address {number}")
            here.manager.add(connection, _slot(here.manager, str(number)))
            connection.write(b"x" * (size * KIB))
            connection.count_memory()
            shown.append(connection)
        here.manager._make_room()
        assert [c.pipe.aborted for c in shown] == [True, False, False, False, False, False]
        assert here.budget.bytes == (250 + 240 + 230 + 200 + 3) * KIB

    async def test_heavier_connections_of_others_are_no_shelter(self) -> None:
        here = Application()
        shares = [here.budget.share(name) for name in ("alone", "many")]
        shown = []
        for share, size in zip((shares[0], *[shares[1]] * 4), (200, 80, 80, 80, 80), strict=True):
            connection = Shown(Pipe(0), manager=here.manager)
            connection.share = share
            here.manager.add(connection, _slot(here.manager, "a"))
            connection.write(b"x" * (size * KIB))
            connection.count_memory()
            shown.append(connection)
        here.manager._make_room()
        assert [c.pipe.aborted for c in shown] == [False, True, False, False, False]

    async def test_connections_are_counted_as_soon_as_they_are_behind(self) -> None:
        here = Application()
        connection = Shown(Pipe(0, high=KIB), manager=here.manager)
        connection.write(b"x" * (10 * KIB))
        assert here.budget.unsent.bytes == 10 * KIB


class TestNothingStays:
    """Memory is free when nobody needs it, and not when the garbage collector comes by."""

    @pytest.fixture(autouse=True)
    def without_collector(self) -> Iterator[None]:
        gc.collect()
        gc.disable()
        yield
        gc.enable()

    async def test_nothing_stays_of_a_face_that_is_full_when_all_leave(self) -> None:
        async with application(64 * KIB) as here:
            answer = here.start("one", "a")
            shown = Shown(Pipe(0), manager=here.manager)
            shown.write(b"x")
            stream_of(answer).attach(shown)
            here.fill(answer, 200 * KIB)
            assert here.budget.running.bytes > 100 * KIB
            shown.leave_all()
            await end(answer)
            here.answers.forget(answer)
            del answer
            shown.connection_lost(None)
            assert here.budget.bytes == 0

    async def test_nothing_stays_of_an_answer_that_was_cancelled_before_it_began(self) -> None:
        async with application() as here:
            answer = here.start("one", "a")
            await end(answer)
            here.answers.forget(answer)
            del answer
            assert here.budget.bytes == 0

    async def test_nothing_stays_of_a_connection_that_is_gone(self) -> None:
        here = Application()
        counted = asyncio.Event()

        class Counted(Shown):
            def count_memory(self) -> None:
                counted.set()

        connection = Counted(manager=here.manager)
        here.manager.add(connection, _slot(here.manager, "a"))
        gone = weakref.ref(connection)
        counting = asyncio.create_task(here.manager.keep_counting_memory(here.answers.read_on))
        await counted.wait()
        here.manager.removed(connection)
        connection.pipe.protocol = None
        del connection
        assert gone() is None
        counting.cancel()


def _slot(manager: ConnectionManager, address: str) -> Slot:
    return manager.admission.admit("sse", address)


class Remotely:
    """Mirrors as `Answers` sees them: two that nobody watches, and one that somebody does."""

    def __init__(self, here: Application) -> None:
        self.idle = [self._mirror(here, f"idle {number}") for number in range(2)]
        self.seen = self._mirror(here, "seen")
        self.shown = Shown(Pipe(None), manager=here.manager)
        self.seen.watch(self.shown, 0)
        here.answers.remote = self  # type: ignore[assignment]

    def _mirror(self, here: Application, name: str) -> Mirror:
        share = here.budget.share(name)
        request = ChatRequest(name, None, b"{}")
        mirror = Mirror(request, "", name, channel(epoch=name), AMPLE, "owner", share)
        mirror.take(Entry(first=1, payloads=(b"x" * (200 * KIB),)))
        return mirror

    def unwatched(self, share: Share | None) -> Iterator[None]:
        while self.idle and share is None:
            self.idle.pop()
            yield

    def watched(self, share: Share | None) -> list[Mirror]:
        return [self.seen] if share is None else []


class TestMirrors:
    async def test_mirrors_that_nobody_watches_go_before_all_else(self) -> None:
        async with application() as here:
            answer = here.start("one", "a")
            here.fill(answer, 232 * KIB)
            await end(answer)
            remote = Remotely(here)
            here.budget.share("asking").check(QUARTER)
            assert (len(remote.idle), here.answers.present) == (1, [answer])

    async def test_mirrors_that_are_watched_let_go_of_what_has_been_seen(self) -> None:
        async with application() as here:
            remote = Remotely(here)
            here.budget.tally.limit = QUARTER
            here.budget.share("asking").check(QUARTER // 4)
            assert (len(remote.idle), len(remote.seen.stream)) == (0, 0)
            assert not remote.shown.closes


async def test_a_request_that_waits_for_another_process_is_counted() -> None:
    budget = Budget()
    share = budget.share("one")
    notified = asyncio.Event()

    async def arrive() -> None:
        await notified.wait()

    waiting = asyncio.ensure_future(Elsewhere(arrive).holding(1_000, share).arrive())
    await asyncio.sleep(0)
    assert budget.held()["requests"] == share.bytes == 1_000
    notified.set()
    await waiting
    assert budget.bytes == 0


def test_what_viewers_share_to_compress_is_counted_while_they_watch() -> None:
    budget = Budget()
    on = channel(epoch="a")
    account = Account(budget.share("one"), budget.running)
    encoder = Encoder("chat_completion", "chat/a", "a")
    chat = on.add(Stream(encoder, Policy.LOSSLESS, AMPLE, account=account))
    before = budget.bytes
    everybody = [Shown(Pipe(None), framing=framing.WINDOWED_WEBSOCKET) for _ in range(3)]
    for shown in everybody:
        viewer = Viewer(shown, on, frozenset(on.streams))
        viewer.attach(0)
        viewer.catch_up()
    on.append(chat, [b"{}"])
    assert budget.bytes - before == 32 * KIB + len(chat) * MESSAGE_BYTES + chat.size
    for shown in everybody:
        shown.leave_all()
    assert budget.bytes - before == len(chat) * MESSAGE_BYTES + chat.size


def test_a_mirrored_answer_counts_until_it_is_gone() -> None:
    budget = Budget()
    share: Share = budget.share("one")
    request = ChatRequest("a", None, b"{}")
    mirror = Mirror(request, "", "one", channel(epoch="a"), AMPLE, "owner", share)
    end = b'{"data":{"finish_reason":"stop","pad":"%b"}}' % (b"x" * 20_000)
    mirror.take(Entry(first=1, payloads=(end,), final=True))
    assert budget.held()["mirrored"] == budget.bytes == share.bytes > ANSWER_BYTES + 20_000
    del mirror
    assert budget.bytes == 0
