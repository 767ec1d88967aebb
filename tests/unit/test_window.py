"""A window that viewers share: every client's own inflater gives what others are sent plain."""

from __future__ import annotations

import random
import time
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming_api.engine.channel import Channel
from streaming_api.engine.stream import Policy, Retention
from streaming_api.engine.viewer import Viewer
from streaming_api.wire import framing
from streaming_api.wire.checksum import Checksum
from streaming_api.wire.framing import Framing
from streaming_api.wire.messages import Encoder, notice
from streaming_api.wire.window import Window
from tests.fakes.engine import Shown, State, channel, chat_stream

CHUNK = (
    b'{"id":"chatcmpl-0123456789abcdef01234567","object":"chat.completion.chunk",'
    b'"created":1767225600,"model":"m","choices":[{"index":0,"delta":{"content":" %b"},'
    b'"logprobs":null,"finish_reason":null}]}'
)
SYNC = b"\x00\x00\xff\xff"
FEW = Retention(bytes=2_000, messages=5, seconds=10**6)
TOPICS = {"metrics": Policy.LATEST, "alerts": Policy.HISTORY, "status": Policy.HISTORY}
SUBSETS = tuple(map(frozenset, (["metrics"], ["alerts"], ["metrics", "alerts"], [*TOPICS])))


class Sent(Shown):
    """A connection; one that is gzip sums up what it is sent, as an event stream does."""

    checksum = Checksum()

    def add_plain(self, plain: bytes) -> None:
        super().add_plain(plain)
        for viewer in self.viewers:
            viewer.pass_checksum()
        self.checksum = self.checksum.add(plain)

    def add_checksum(self, written: Checksum) -> None:
        self.checksum = self.checksum.join(written)

    def send(self, payload: bytes, message_type: str) -> None:
        super().send(payload, message_type)
        if self.framing is framing.GZIP_EVENTS:
            self.add_plain(framing.EVENTS.notice(payload, message_type))


def inflated_events(written: bytes, end: bytes) -> bytes:
    """What a gzip client reads; it checks the sum at the end."""
    inflater = zlib.decompressobj(31)
    text = inflater.decompress(framing.GZIP_HEADER)
    while written:
        head, _, rest = written.partition(b"\r\n")
        size = int(head, 16)
        text += inflater.decompress(rest[:size])
        written = rest[size + 2 :]
    text += inflater.decompress(end)
    assert inflater.eof
    return text


def inflated_frames(written: bytes) -> list[bytes]:
    """What a WebSocket client reads that keeps its window between messages."""
    inflater = zlib.decompressobj(-15)
    messages = []
    while written:
        size, start = written[1], 2
        if size > 125:
            start = 4 if size == 126 else 10
            size = int.from_bytes(written[2:start], "big")
        payload = written[start : start + size]
        messages.append(inflater.decompress(payload + SYNC) if written[0] & 0x40 else payload)
        written = written[start + size :]
    return messages


class Client:
    """One client that inflates, and its twin that is sent everything as it is."""

    def __init__(self, *, gzip: bool) -> None:
        self.gzip = gzip
        kinds = (
            (framing.GZIP_EVENTS, framing.EVENTS)
            if gzip
            else (framing.WINDOWED_WEBSOCKET, framing.WEBSOCKET)
        )
        self.both = [Sent(framing=kind) for kind in kinds]
        self.viewers: list[list[Viewer]] = [[], []]

    def watch(self, on: Channel, watched: frozenset[str]) -> None:
        for shown, viewers in zip(self.both, self.viewers, strict=True):
            viewers.append(Viewer(shown, on, watched))
            viewers[-1].join()

    def resume(self, behind: int) -> None:
        """Leave, and come back to where it was, or a little before that."""
        for shown, viewers in zip(self.both, self.viewers, strict=True):
            if not viewers or viewers[-1].gone:
                continue
            old = viewers.pop()
            cursor = max(0, old.cursor - behind)
            old.leave()
            viewers.append(Viewer(shown, old.channel, old.watched))
            viewers[-1].resume(cursor)

    def told(self, text: bytes) -> None:
        for shown in self.both:
            shown.send(text, "alert")

    def pause(self) -> None:
        for shown in self.both:
            if not shown.paused:
                shown.pause_writing()

    def drain(self) -> None:
        for shown in self.both:
            if shown.paused:
                shown.resume_writing()

    def check(self) -> None:
        for shown in self.both:
            shown.leave_all()
        written, plain = (b"".join(shown.pipe.written) for shown in self.both)
        if self.gzip:
            end = framing.gzip_end(*self.both[0].checksum)
            assert inflated_events(written, end) == plain
        else:
            # which of a connection's viewers reads on first is left open
            assert sorted(inflated_frames(written)) == sorted(inflated_frames(plain))


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["metrics", "alerts", "status", "chat"]),
            st.integers(0, 9),
            st.sampled_from([0, 10, 300, 5_000]),
        ),
        st.tuples(
            st.sampled_from(["join", "more", "resume", "notice", "pause", "drain", "leave"]),
            st.integers(0, 9),
            st.integers(0, 3),
        ),
    ),
    max_size=60,
)


@settings(max_examples=300)
@given(STEPS)
def test_any_mixture_of_joins_notices_lag_and_resumes_inflates_to_what_was_sent(
    steps: list[tuple[str, int, int]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: 0)  # both of a pair are told the same time
        run(steps)


def run(steps: list[tuple[str, int, int]]) -> None:  # noqa: C901, PLR0912 (a row for each step)
    on, answers = channel(), channel(epoch="r")
    topics = {name: State(on, name, policy, FEW) for name, policy in TOPICS.items()}
    chat = chat_stream(answers)
    clients = [Client(gzip=True), Client(gzip=False), Client(gzip=False)]
    for client in clients:
        client.watch(on, SUBSETS[-1])
    for what, which, much in steps:
        client = clients[which % len(clients)]
        match what:
            case "chat":
                answers.append(chat, [b'{"text":"%d %b"}' % (which, b"word " * (much // 5))])
            case "join":
                clients.append(Client(gzip=bool(which % 2)))
                clients[-1].watch(on, SUBSETS[much])
            case "more" if not client.gzip:
                client.watch(*((answers, frozenset(answers.streams)) if much else (on, SUBSETS[0])))
            case "more" | "resume":
                client.resume(much)
            case "notice":
                client.told(notice("alert", {"event": "told", "text": "x" * 100 * much}))
            case "pause":
                client.pause()
            case "drain":
                client.drain()
            case "leave":
                for shown in client.both:
                    shown.leave_all()
            case _:
                topics[what].change(pad=much)
    for client in clients:
        client.drain()
        client.check()


def chunk_of_a_chat(number: int) -> bytes:
    """As OpenAI sends them, about 250 bytes; the text differs, and so does the time of day."""
    word = ("stream", " of", " ordinary", " words", " and", " tokens", " again")[number % 7]
    return (
        b'{"id":"chatcmpl-9f8a7b6c5d4e3f2a1b0c","object":"chat.completion.chunk","created":17000%05d,'
        b'"model":"gpt-4o-mini","system_fingerprint":"fp_44709d6fcb","choices":[{"index":0,"delta":'
        b'{"content":"%b"},"logprobs":null,"finish_reason":null}]}' % (number // 50, word.encode())
    )


def bytes_a_token(kind: Framing) -> float:
    on = channel(epoch="7f3c2a9e-1b2d-4c5e-8f90-a1b2c3d4e5f6")
    chat = chat_stream(on)
    shown = Sent(framing=kind)
    viewer = Viewer(shown, on, frozenset(on.streams))
    viewer.attach(0)
    viewer.catch_up()
    for number in range(500):
        on.append(chat, [chunk_of_a_chat(number)])
    return sum(map(len, shown.pipe.written)) / 500


def test_a_token_of_a_chat_takes_forty_bytes_of_wire() -> None:
    assert bytes_a_token(framing.GZIP_EVENTS) <= 40
    assert bytes_a_token(framing.WINDOWED_WEBSOCKET) <= 40
    assert bytes_a_token(framing.WEBSOCKET) > 400


def test_many_who_watch_the_same_share_one_window_and_the_same_bytes() -> None:
    on = channel()
    chat = chat_stream(on)
    everybody = [Sent(framing=framing.WINDOWED_WEBSOCKET) for _ in range(5)]
    for shown in everybody:
        viewer = Viewer(shown, on, frozenset(on.streams))
        viewer.attach(0)
        viewer.catch_up()
    for number in range(3):
        on.append(chat, [chunk_of_a_chat(number)])
    assert len({b"".join(shown.pipe.written) for shown in everybody}) == 1
    assert len(everybody[0].pipe.written[-1]) < 40, "it refers to what came before"


def test_what_a_window_takes_is_counted_until_it_is_gone() -> None:
    counts: list[int] = []
    window = Window(counts.append)
    assert not counts, "nothing before it is used"
    window.deflate(b"small")
    assert sum(counts) == 32 * 2**10
    window.deflate(b"x" * 5_000)
    window.deflate(b"small")
    assert sum(counts) == 256 * 2**10
    del window
    assert sum(counts) == 0


def test_a_key_frame_refers_to_nothing_older() -> None:
    window = Window(lambda _: None)
    window.deflate(b"an answer that comes again")
    again = window.deflate(b"an answer that comes again")
    window.spoiled = True
    key = window.deflate(b"an answer that comes again")
    assert len(again) < len(key)
    assert zlib.decompressobj(-15).decompress(key) == b"an answer that comes again"


def test_no_token_of_a_chat_is_sent_anew() -> None:
    """Whatever its id is, each message after the first is found to be nearly the one before."""
    draw = random.Random(1)
    costs = []
    for _ in range(8):
        request = f"{draw.getrandbits(128):032x}"
        encoder = Encoder("chat_completion", f"chat/{request}", request, request)
        window = Window(lambda _: None)
        for number in range(1, 201):
            word = "".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 8)))
            message = encoder.encode(number, CHUNK % word.encode(), 0.0)
            costs.append(len(framing.GZIP_EVENTS.windowed([message], window)))
        del costs[-200]  # the first: a key frame
    assert max(costs) <= 60
