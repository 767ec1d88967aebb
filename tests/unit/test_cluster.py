"""Recorder and mirror over a store that loses answers, keys and entries: exactly once all the same.

The store here is in memory and has the semantics of XADD and XRANGE of Redis and Valkey: ids only
grow, NOMKSTREAM refuses what is gone, the highest id ends a stream.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming_api.cluster.entries import SEALED, Entry, Fields, decode
from streaming_api.cluster.mirror import SEAL_CURSOR, Mirror
from streaming_api.cluster.recorder import Append, Ask, Recorder, Rewrite, Step
from streaming_api.engine.budget import NOBODY
from streaming_api.engine.channel import Channel
from streaming_api.engine.stream import Retention, Stream
from streaming_api.engine.viewer import Viewer
from streaming_api.wire.commands import ChatRequest
from streaming_api.wire.framing import WEBSOCKET
from streaming_api.wire.messages import Encoder
from tests.fakes.engine import AMPLE, Shown, channel, chat_stream

REQUEST = ChatRequest("r", "m", b"{}")


class FakeStore:
    """One stream of a store: entries by id, or no stream at all."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, Fields]] | None = None
        self.kept: list[tuple[int, Fields]] | None = None  # what a replica or an RDB file has

    @property
    def top(self) -> int | None:
        return self.entries[-1][0] if self.entries else None

    def add(self, number: int, fields: Fields, *, create: bool) -> str:
        """XADD: ``accepted``, ``missing`` (nil of NOMKSTREAM) or ``refused``."""
        if self.entries is None:
            if not create:
                return "missing"
            self.entries = []
        if self.entries and number <= self.entries[-1][0]:
            return "refused"
        self.entries.append((number, fields))
        return "accepted"

    def after(self, number: int) -> list[Entry]:
        """XREAD."""
        return [decode(fields) for at, fields in self.entries or () if at > number]

    def lose(self, count: int) -> None:
        """Fail over to a replica that is so many entries behind."""
        if self.entries is not None:
            del self.entries[max(0, len(self.entries) - count) :]
            if not self.entries:
                self.entries = None


def carry_out(store: FakeStore, step: Step) -> Callable[[Recorder], None]:
    """Do a step; what the recorder is to be told of it."""
    match step:
        case Append():
            entry = step.entry
            result = store.add(entry.last, entry.encode(), create=step.create)
            if result == "refused":
                return Recorder.unsure
            return Recorder.accepted if result == "accepted" else Recorder.missing
        case Rewrite():
            if store.top == SEALED:
                return Recorder.seal
            store.entries = [(entry.last, entry.encode()) for entry in step.entries] or None
            return Recorder.accepted
        case Ask():
            top = store.top
            return lambda recorder: recorder.found(top)


class Answer:
    """An answer with a recorder, a store, and a mirror that somebody watches from the start."""

    def __init__(self, retention: Retention = AMPLE) -> None:
        self.channel: Channel = channel(epoch="r")
        self.stream: Stream = chat_stream(self.channel, retention)
        self.due: list[Recorder] = []
        self.recorder = Recorder(self.channel, self.stream, self.due.append)
        self.channel.recorder = self.recorder
        self.store = FakeStore()
        self.mirror = Mirror(REQUEST, "", "", channel(epoch="r"), AMPLE, "owner", NOBODY.share)
        self.shown = Shown()
        self.mirror.watch(self.shown, 0)

    def append(self, count: int = 1) -> None:
        if not self.channel.ended:
            self.channel.append(
                self.stream,
                [b'{"n":%d}' % (self.channel.number + at) for at in range(1, count + 1)],
            )

    def end(self) -> None:
        if not self.channel.ended:
            self.channel.end(self.stream, orjson.dumps({"finish_reason": "stop"}))

    def record(self, *, lost: bool = False) -> None:
        """One step towards the store; its reply may be lost."""
        step = self.recorder.due()
        if step is not None:
            told = carry_out(self.store, step)
            (Recorder.unsure if lost else told)(self.recorder)

    def read(self) -> None:
        """What the mirror's process does when it hears of news."""
        for entry in self.store.after(self.mirror.channel.number):
            if not self.mirror.take(entry):
                self.recorder.missing()  # the owner is asked to write it again
                if self.recorder.sealed:
                    self.mirror.owner_lost = True  # it says that it cannot
                return

    def settle(self) -> None:
        """No more faults: everything that is due is done."""
        for _ in range(10):
            while not self.recorder.done:
                self.record()
            self.read()

    def numbers(self) -> list[int]:
        return self.shown.numbers()


def test_a_mirror_shows_the_bytes_of_the_owner() -> None:
    answer = Answer()
    direct = Shown(framing=WEBSOCKET)
    answer.shown = Shown(framing=WEBSOCKET)
    answer.mirror.watch(answer.shown, 0)
    Viewer(direct, answer.channel, frozenset(answer.channel.streams)).resume(0)
    answer.append(3)
    answer.end()
    answer.settle()
    assert b"".join(answer.shown.pipe.written) == b"".join(direct.pipe.written)
    assert answer.mirror.outcome is not None
    assert answer.mirror.outcome.finish_reason == "stop"
    assert answer.mirror.chunks == 3


class TestFaults:
    def test_an_append_whose_reply_is_lost_is_asked_for_and_not_doubled(self) -> None:
        answer = Answer()
        answer.append(2)
        answer.record(lost=True)
        answer.append(1)
        answer.settle()
        assert answer.numbers() == [1, 2, 3]
        assert len(answer.store.entries or ()) == 2

    def test_a_store_that_has_lost_everything_is_written_again(self) -> None:
        answer = Answer()
        answer.append(3)
        answer.settle()
        answer.store.entries = None
        answer.append(1)
        answer.settle()
        assert [entry.first for entry in answer.store.after(0)] == [1]
        assert answer.numbers() == [1, 2, 3, 4]

    def test_a_hole_is_repaired_by_the_owner(self) -> None:
        answer = Answer()
        for _ in range(3):
            answer.append(1)
            answer.record()
        answer.store.lose(2)
        answer.append(1)
        answer.record()
        assert [entry.first for entry in answer.store.after(0)] == [1, 4]
        answer.settle()
        assert answer.numbers() == [1, 2, 3, 4]

    def test_a_zombie_cannot_append_after_the_seal(self) -> None:
        answer = Answer()
        answer.append(2)
        answer.record()
        assert answer.store.add(SEALED, Entry(1, seal=True).encode(), create=True) == "accepted"
        answer.append(1)
        answer.settle()
        assert answer.recorder.sealed
        assert answer.numbers() == [1, 2, 3]
        end = answer.shown.messages()[-1]["data"]
        assert end["finish_reason"] == "incomplete"
        assert end["error"]["code"] == "server_lost"

    def test_what_the_backlog_lost_while_the_store_was_down_is_a_gap_that_is_reported(self) -> None:
        answer = Answer(Retention(bytes=2**30, messages=2, seconds=1e6))
        answer.append(1)
        answer.settle()
        answer.recorder.store_is_up = False
        for _ in range(6):
            answer.append(1)
        answer.recorder.store_is_up = True
        answer.settle()
        assert answer.numbers() == [1, 6, 7]
        assert [(gap["from"], gap["to"]) for gap in answer.shown.events("gap")] == [(2, 5)]

    def test_what_is_not_recorded_stays_in_the_backlog_while_the_store_is_up(self) -> None:
        answer = Answer(Retention(bytes=2**30, messages=2, seconds=1e6))
        for _ in range(6):
            answer.append(1)
        assert answer.channel.full, "and the upstream is read no further"
        answer.settle()
        assert answer.numbers() == [1, 2, 3, 4, 5, 6]


class TestSeenMoreThanIsHere:
    """Viewers of the owner see a token before the store has it."""

    def test_who_has_seen_more_waits_and_is_shown_nothing_twice(self) -> None:
        answer = Answer()
        answer.append(3)
        answer.record()
        answer.read()
        shown = Shown()
        answer.mirror.watch(shown, 5)
        answer.append(1)
        answer.settle()
        assert shown.numbers() == []
        answer.append(2)
        answer.settle()
        assert shown.numbers() == [6]
        answer.end()
        answer.settle()
        assert shown.numbers() == [6, 7]
        assert shown.finishes == 1

    def test_a_transport_that_drains_does_not_make_it_go_on_too_early(self) -> None:
        answer = Answer()
        answer.append(3)
        answer.settle()
        shown = Shown()
        answer.mirror.watch(shown, 5)
        shown.pause_writing()
        shown.resume_writing()
        answer.append(3)
        answer.settle()
        assert shown.numbers() == [6]

    def test_tokens_that_died_with_the_owner_are_reported_and_not_shown_again(self) -> None:
        answer = Answer()
        answer.append(3)
        answer.settle()
        before, after = Shown(), Shown()
        answer.mirror.watch(before, 5)
        answer.mirror.lost()
        answer.mirror.watch(after, 4)
        for shown, seen in ((before, 5), (after, 4)):
            assert shown.numbers() == [seen + 1]
            (gap,) = shown.events("gap")
            assert (gap["reason"], gap["from"], gap["to"]) == ("lost", 4, seen)
            assert shown.messages()[-1]["data"]["finish_reason"] == "incomplete"
            assert shown.finishes == 1

    def test_the_cursor_of_such_an_end_says_that_everything_is_seen(self) -> None:
        answer = Answer()
        answer.append(3)
        answer.settle()
        answer.mirror.lost()
        assert answer.shown.messages()[-1]["cursor"] == f"r:{SEAL_CURSOR}"
        assert answer.mirror.locate(f"r:{SEAL_CURSOR}") == (SEAL_CURSOR, None)
        assert answer.mirror.has_seen_all(SEAL_CURSOR)
        assert not answer.mirror.has_seen_all(4), "the number of a token that died"
        late = Shown()
        answer.mirror.watch(late, 0)
        assert late.messages()[-1]["cursor"] == f"r:{SEAL_CURSOR}"


def test_an_entry_survives_its_encoding() -> None:
    entry = Entry(5, (b'{"a":1}', b"{}"), final=True, cut=True)
    assert decode(entry.encode()) == entry
    assert entry.last == 6
    assert decode(Entry(1, seal=True).encode()).last == SEALED
    later = {**entry.encode(), b"v9": b"of a later version"}
    assert decode(later) == entry


def suffer(answer: Answer, fault: str, chance: random.Random) -> None:
    """Let one thing happen, good or bad."""
    store = answer.store

    def save() -> None:
        store.kept = list(store.entries or ())

    def restart_with_old_data() -> None:
        store.entries = list(store.kept or ()) or None
        answer.recorder.unsure()  # its run id has changed

    def flush() -> None:
        store.entries = None

    {
        "append": lambda: answer.append(chance.randint(1, 4)),
        "record": answer.record,
        "lost": lambda: answer.record(lost=True),
        "read": answer.read,
        "flush": flush,
        "lose": lambda: store.lose(chance.randint(1, 3)),
        "save": save,
        "old": restart_with_old_data,
        "reconnect": answer.recorder.unsure,
        "end": answer.end,
    }[fault]()


FAULTS = st.sampled_from(
    ["append", "append", "append", "record", "record", "record", "lost", "read", "read",
     "flush", "lose", "save", "old", "reconnect", "end"]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(happens=st.lists(FAULTS, max_size=60), seed=st.integers(0, 2**32), sealed=st.booleans())
def test_any_interleaving_shows_a_prefix_exactly_once(
    *, happens: list[str], seed: int, sealed: bool
) -> None:
    chance = random.Random(seed)
    answer = Answer()
    for fault in happens:
        suffer(answer, fault, chance)
        numbers = answer.numbers()
        assert numbers == list(range(1, len(numbers) + 1))
    if sealed:
        answer.store.add(SEALED, Entry(1, seal=True).encode(), create=True)
    else:
        answer.recorder.unsure()
    answer.append(1)
    answer.end()
    answer.settle()
    numbers = answer.numbers()
    assert numbers == sorted(set(numbers)), "once, in order"
    told = {
        number for gap in answer.shown.events("gap") for number in range(gap["from"], gap["to"] + 1)
    }
    # what the store has lost before it was sealed nobody may write again
    assert set(range(1, numbers[-1])) - set(numbers) <= (told if sealed else set())
    if not sealed:
        assert numbers[-1] == answer.channel.number, "and all of it while the owner lives"
    assert answer.mirror.outcome is not None
    assert answer.mirror.outcome.finish_reason in {"stop", "incomplete"}


def test_messages_hold_no_line_end() -> None:
    """Which separates them in an entry."""
    message = Encoder("chat_completion", "chat/r", "r", "r").encode(1, b'{"a":"\\n"}', 0.0)
    assert b"\n" not in message.payload
