"""The event stream parser against the HTML standard's rules, however the bytes are cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_api.upstreams.sse_parser import Event, EventParser, EventTooLargeError

CHUNK = b'{"choices":[{"index":0,"delta":{"content":"hi"}}]}'


def parse(*reads: bytes, limit: int = 2**20) -> list[Event]:
    """Feed `reads` to a new parser and return all events."""
    parser = EventParser(limit)
    return [event for read in reads for event in parser.feed(read)]


def data_of(*reads: bytes) -> list[bytes]:
    """Feed `reads` to a new parser and return the data of all events."""
    return [data for _, data in parse(*reads)]


def reference(stream: bytes) -> list[Event]:
    """The standard's algorithm over the whole stream at once, written to be read."""
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events: list[Event] = []
    event_type, data = b"", b""
    for line in text.split(b"\n")[:-1]:
        if not line:
            if data:
                events.append((event_type, data.removesuffix(b"\n")))
            event_type, data = b"", b""
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"error" or line.startswith(b'{"'):  # ours: it is an event by itself
            if data:
                events.append((event_type, data.removesuffix(b"\n")))
            event_type, data = b"", b""
            events.append((name, value) if name == b"error" else (b"", line))
        if name == b"data":
            data += value + b"\n"
        elif name == b"event":
            event_type = value
    return events


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_every_line_end_ends_lines_and_events(end: bytes) -> None:
    """LF, CRLF and CR are the same."""
    assert data_of(b"data: a" + end + end + b"data: b" + end + end) == [b"a", b"b"]


def test_a_read_of_whole_events_after_the_first_is_cut_the_same_way() -> None:
    """The fast path gives what the slow one gives, also with comments and ids in between."""
    read = b"data: a\n\n: ping\n\nid: 7\ndata: b\n\ndata:c\n\n\n\ndata: d\ndata: e\n\n"
    assert data_of(b"data: first\n\n", read, read) == [
        b"first", *[b"a", b"b", b"c", b"d\ne"] * 2,
    ]  # fmt: skip


def test_an_event_without_its_empty_line_is_not_an_event() -> None:
    """The standard discards it at the end of the stream."""
    assert data_of(b"data: a\n\ndata: b\n") == [b"a"]


def test_separators_of_unicode_are_text() -> None:
    """U+2028, U+2029, U+0085, VT and FF end no line."""
    text = "a\u2028b\u2029c\x85d\x0be\x0cf".encode()
    assert data_of(b"data: " + text + b"\n\n", b"data: " + text + b"\n\n") == [text, text]


def test_a_byte_order_mark_is_dropped_at_the_start_and_only_there() -> None:
    """Also when it comes in three reads."""
    assert data_of(b"\xef", b"\xbb", b"\xbfdata: a\n\n") == [b"a"]
    assert data_of(b"data: a\n\n", b"\xef\xbb\xbfdata: b\n\n") == [b"a"]


def test_one_space_after_the_colon_is_dropped_and_no_more() -> None:
    """`data:x`, `data: x` and `data:  x` are three different lines but for one space."""
    assert data_of(b"data:x\n\ndata: x\n\ndata:  x\n\n") == [b"x", b"x", b" x"]


def test_several_data_lines_are_joined_with_a_line_feed() -> None:
    """Also empty ones, and a field name without a colon."""
    assert data_of(b"data: a\ndata\ndata:\ndata: b\n\n") == [b"a\n\n\nb"]


def test_the_event_field_is_returned_and_does_not_stay_for_the_next_event() -> None:
    """An `event` line without data makes no event either."""
    stream = b"event: error\ndata: a\n\nevent: lost\n\ndata: b\n\n"
    assert parse(stream) == [(b"error", b"a"), (b"", b"b")]
    assert parse(b"\n", stream, b"event: x\n", b"\n", stream) == parse(stream + stream)


def test_an_error_line_and_an_object_without_a_field_are_events() -> None:
    """llama.cpp writes `error: {...}`; what the standard drops here could be content."""
    stream = b'data: a\n\nerror: {"code":500}\n\ndata: b\n{"c":1}\n{"d":2}\n\n'
    events = [(b"", b"a"), (b"error", b'{"code":500}'), (b"", b"b"), (b"", b'{"c":1}'),
              (b"", b'{"d":2}')]  # fmt: skip
    assert parse(stream) == events
    assert parse(b"\n", stream, stream) == events * 2


def test_a_line_end_cut_in_two_is_one_line_end() -> None:
    """CR in one read and LF in the next do not make an empty line."""
    assert data_of(b"data: a\r", b"\ndata: b\r", b"\n\r", b"\ndata: c\r\n\r\n") == [b"a\nb", b"c"]
    assert data_of(b"data: a\r\r", b"\n", b"data: b\n\n") == [b"a", b"b"]
    assert data_of(b"data: a\r", b"", b"\ndata: b\n\n") == [b"a\nb"]


def test_an_unfinished_line_is_finished_by_a_read_that_ends_an_event() -> None:
    """What is held keeps the next read off the fast path; so does a CR in it."""
    assert data_of(b"data: a\n\nda", b"ta: b\n\n") == [b"a", b"b"]
    assert data_of(b"data: a\n\ndata: b\n", b"data: c\n\n") == [b"a", b"b\nc"]
    assert data_of(b"data: a\n\n", b"data: b\rdata: c\n\n") == [b"a", b"b\nc"]


def test_a_character_cut_in_two_comes_out_whole() -> None:
    """Bytes are joined, never decoded."""
    smile = "🙂".encode()
    event = b"data: " + smile + b"\n\n"
    assert data_of(*(event[i : i + 1] for i in range(len(event)))) == [smile]


def test_an_event_of_exactly_the_bound_passes_and_one_byte_more_does_not() -> None:
    """The bound counts data and its line ends, on either path and however it is cut."""
    event = b"data: " + b"x" * 93 + b"\n\n"
    for reads in ([event], [b"data: \n\n", event], [event[i : i + 1] for i in range(len(event))]):
        assert data_of(*reads)[-1] == b"x" * 93
        assert parse(*reads, limit=99)
        with pytest.raises(EventTooLargeError, match="larger than 93 bytes"):
            parse(*reads, limit=93)


@pytest.mark.parametrize("endless", [b"data: x\n", b"x", b":x", b"data\n", b"event: x"])
def test_what_never_ends_is_refused(endless: bytes) -> None:
    """Data lines, a line, a comment line: nothing is held beyond the bound."""
    with pytest.raises(EventTooLargeError):
        parse(*[endless] * 2_000, limit=1_000)


def test_events_before_one_that_is_too_large_are_not_lost() -> None:
    """They come with the exception when the same read brought them."""
    with pytest.raises(EventTooLargeError) as raised:
        parse(b"data: a\n\ndata: b\n\ndata: " + b"x" * 100, limit=50)
    assert raised.value.events == [(b"", b"a"), (b"", b"b")]


def test_comments_for_ever_cost_nothing() -> None:
    """Life signs are not held, so they never reach the bound."""
    parser = EventParser(100)
    for _ in range(1_000):
        assert parser.feed(b": ping\n") == []
    assert parser.feed(b"data: a\n\n") == [(b"", b"a")]


@pytest.mark.parametrize(("size", "count"), [(1, 200_000), (65_536, 160)])
def test_a_huge_line_grows_in_place(size: int, count: int) -> None:
    """One buffer is extended, never built anew, so the cost is linear in the line's length."""
    parser = EventParser()
    parser.feed(b"data: ")
    held = parser._unfinished
    for _ in range(count):
        parser.feed(b"x" * size)
        assert parser._unfinished is held
    assert parser.feed(b"\n\n") == [(b"", b"x" * size * count)]


pieces_of_streams = st.lists(
    st.sampled_from(
        [b"data", b"event", b"id", b"error", b'{"', b":", b" ", b"\n", b"\r", b"\r\n", b"\n\n",
         b"data: " + CHUNK, b"data: x\n\n", b"\xef\xbb\xbf", "🙂".encode(), b"\xff", b"\x00",
         "\u2028".encode()]
    ),
    max_size=30,
)  # fmt: skip


@given(pieces_of_streams, st.lists(st.integers(0, 200), max_size=8))
def test_any_stream_cut_anywhere_gives_what_the_standard_says(
    parts: list[bytes], cuts: list[int]
) -> None:
    """Against the standard's algorithm over the whole."""
    stream = b"".join(parts)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    reads = [stream[a:b] for a, b in itertools.pairwise(places)]
    assert parse(*reads) == reference(stream)
