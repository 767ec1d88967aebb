"""An answer is read the short way where it can be; the events are those of the long way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming_api.faces.chunk_reader import ChunkReader
from streaming_api.faces.responses import ResponseTranslator
from streaming_api.faces.translator import END, Delta, Translator
from streaming_api.faces.ui_messages import UiMessageTranslator
from tests.responses import heard

Json = dict[str, Any]
MAKE: Final[dict[str, Callable[[], Translator]]] = {
    "responses": lambda: ResponseTranslator({"id": "resp_r", "created_at": 1, "model": "m"}, "r"),
    "ui messages": lambda: UiMessageTranslator("r"),
}


def chunk(model: str = "m", finish_reason: str | None = None, **delta: object) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return orjson.dumps({"id": "c", "model": model, "choices": [choice]})


CALL: Final = [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": "{}"}}]
MODELS: Final = st.sampled_from(["m", "n", ""])
WORDS: Final = st.text(max_size=4) | st.sampled_from(
    ['"', "\\", '"}', '","role":"x', "\n", "\u2028", "é", "/", "x", '"content":"y"']
)
RAW: Final = st.sampled_from([r"\u00e9", r"\/", r"\ud83d\ude00", r"\n", r"a\"b", r"\\", "a", ""])
CHUNKS: Final = st.one_of(
    st.builds(lambda text, model: chunk(model, content=text), WORDS, MODELS),
    st.builds(lambda text: chunk(content="0").replace(b'"0"', f'"{text}"'.encode()), RAW),
    st.builds(lambda text: chunk(content=text, role="assistant"), WORDS),
    st.builds(lambda text: chunk(content=text, finish_reason="stop"), WORDS),
    st.builds(lambda text: chunk(reasoning_content=text), WORDS),
    st.builds(lambda text: chunk(content=text, reasoning_content="thought"), WORDS),
    st.builds(lambda text: chunk(refusal=text), WORDS),
    st.builds(lambda text: chunk(content=text, content_too=text), WORDS),
    st.builds(
        lambda text: orjson.dumps(
            {"content": text, "choices": [{"delta": {"content": text}, "logprobs": None}]}
        ),
        WORDS,
    ),
    st.builds(
        lambda text: orjson.dumps(
            {"choices": [{"delta": {"content": text}, "logprobs": {"content": [{"token": text}]}}]}
        ),
        WORDS,
    ),
    st.builds(
        lambda text, index: orjson.dumps(
            {"choices": [{"index": 1 - index, "delta": {"content": text}},
                         {"index": index, "delta": {"content": text}}]}
        ),
        WORDS,
        st.integers(0, 1),
    ),
    st.sampled_from([
        chunk(tool_calls=CALL),
        chunk(tool_calls=CALL, content="x"),
        b'{"choices":[],"usage":{"total_tokens":1}}',
        b'{"choices":[{"delta":{"content":"a","content":"b"}}]}',
        b'{"choices":[{"delta":{"content":null}}]}',
        b'{"choices":null}',
    ]),
)  # fmt: skip
ENDS: Final = st.sampled_from(
    [orjson.dumps({"object": END, "finish_reason": how}) for how in ("stop", "length", "error")]
)


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
@settings(deadline=None, max_examples=150)
@given(
    runs=st.lists(st.tuples(CHUNKS, st.lists(WORDS, max_size=4)), max_size=8),
    end=ENDS,
    together=st.booleans(),
)
def test_the_short_way_says_what_the_long_way_says(
    make: Callable[[], Translator],
    runs: list[tuple[bytes, list[str]]],
    end: bytes,
    *,
    together: bool,
) -> None:
    """After any chunk come others that differ from it, at most, in one text."""
    messages = []
    for first, words in runs:
        messages.append(first)
        for word in words:
            said = orjson.loads(first)
            for choice in said["choices"] or ():
                choice["delta"]["content"] = word
            messages.append(orjson.dumps(said))
    messages.append(end)
    slow, quick = make(), make()
    assert quick.opening() == slow.opening()
    expected = [event for message in messages for event in heard(slow, message)]
    reader = ChunkReader(quick)
    lines = [b"%b\n" % message for message in messages]
    reads = [b"".join(lines)] if together else lines
    assert [event for read in reads for event in reader.read(read)] == expected
    assert reader.ended
    assert quick.size == slow.size


class Noted(Translator):
    """A translator that notes which way each text came; it says nothing."""

    def __init__(self) -> None:
        self.size = 0
        self.parsed: list[str] = []
        self.said: list[tuple[str, bytes]] = []

    def opening(self) -> list[bytes]:
        return []

    def read(self, delta: Delta) -> list[bytes]:
        self.parsed.append(delta.text)
        return []

    def say(self, text: str, said: bytes) -> list[bytes]:
        self.said.append((text, said))
        return []

    def end(self, end: object) -> list[bytes]:  # noqa: ARG002 (the shape of a translator)
        return []


def noted(*messages: bytes) -> Noted:
    translator = Noted()
    reader = ChunkReader(translator)
    for message in messages:
        reader.read(message + b"\n")
    return translator


def test_chunks_of_text_are_not_parsed_from_the_second_on() -> None:
    words = ["two", "three", 'a "quote"', "back\\slash", "line\nend", "é"]
    found = noted(
        chunk(role="assistant", content=""), *(chunk(content=word) for word in ["one", *words])
    )
    assert found.parsed == ["", "one"]
    assert found.said == [(word, orjson.dumps(word)[1:-1]) for word in words]


def test_what_else_comes_is_parsed_and_learned_from_again() -> None:
    texts = [chunk(content=str(number)) for number in range(20)]
    found = noted(*texts[:3], chunk("another", content="x"), *texts[3:])
    assert found.parsed == ["0", "x", *map(str, range(3, 10))]
    assert [text for text, _ in found.said] == ["1", "2", *map(str, range(10, 20))]


@pytest.mark.parametrize(
    "inside",
    [b'a","role":"x', b'a"},"finish_reason":null},{"delta":{"content":"b', b"", b'a" ,"b":"c'],
)
def test_what_stands_between_is_one_text_or_it_is_parsed(inside: bytes) -> None:
    found = noted(chunk(content="0"), chunk(content="\0").replace(b"\\u0000", inside))
    assert len(found.parsed) == 2
    assert not found.said


TOP: Final = b'{"content":"x","choices":[{"delta":{"content":"x"}}]}'


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param(
            [chunk("m", content="a"), chunk("n", content="b"), chunk("m", content="c")],
            id="the model that answers changes, and changes back",
        ),
        pytest.param(
            [TOP, TOP.replace(b'{"content":"x"', b'{"content":"y"', 1)], id="another content"
        ),
    ],
)  # fmt: skip
def test_what_looks_like_a_text_is_read_as_the_long_way_does(messages: list[bytes]) -> None:
    slow, quick = MAKE["responses"](), MAKE["responses"]()
    messages.append(orjson.dumps({"object": END, "finish_reason": "stop"}))
    expected = [event for message in messages for event in heard(slow, message)]
    reader = ChunkReader(quick)
    assert [event for message in messages for event in reader.read(message + b"\n")] == expected
