"""What one turn of the event loop has read is shown when all is read, and written together."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from streaming_api.engine.channel import Channel
from streaming_api.engine.stream import Stream
from streaming_api.engine.turn import AT_ONCE, ENDS, Turn
from streaming_api.engine.viewer import Viewer
from streaming_api.upstreams.answer import ExchangeResult
from streaming_api.wire import framing
from tests.fakes import hot_path
from tests.fakes.engine import Shown, channel, chat_stream


class Taken:
    """An answer of sorts, which notes how much had been written when it took its chunks."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.on: Channel = channel()
        self.stream: Stream = chat_stream(self.on)
        self.shown = Shown(framing=framing.WEBSOCKET)
        viewer = Viewer(self.shown, self.on, frozenset(self.on.streams))
        viewer.attach(0)
        viewer.catch_up()
        self.everybody: list[Taken] = []
        self.written: list[int] = []

    def take(self, chunks: list[bytes]) -> None:
        self.written += [len(other.shown.pipe.written) for other in self.everybody]
        self.on.append(self.stream, chunks, later=self.turn.flushed)


async def test_all_is_appended_before_any_of_it_is_written() -> None:
    turn = Turn()
    both = [Taken(turn), Taken(turn)]
    for taken in both:
        taken.everybody = both
        turn.add(taken, [b'{"text":"one"}'])
    turn.add(both[0], [b'{"text":"two"}'])
    assert [len(taken.shown.pipe.written) for taken in both] == [0, 0]
    await asyncio.sleep(0)
    assert both[0].written == [0, 0, 0, 0]
    assert both[1].written == [0, 0]
    assert [b'"one"' in data for data in both[0].shown.pipe.written] == [True, False]
    assert [len(taken.shown.pipe.written) for taken in both] == [2, 1]


async def test_a_read_after_which_more_may_come_in_the_same_turn_is_taken_at_once() -> None:
    """Whoever takes it can then stop reading."""
    turn = Turn()
    taken = Taken(turn)
    taken.everybody = [taken]
    turn.add(taken, [b'{"text":"before"}'])
    assert not taken.shown.pipe.written
    turn.add(taken, [b'{"text":"many"}'] * (AT_ONCE // 10))
    assert [b'"before"' in data for data in taken.shown.pipe.written] == [True, False]


async def test_chunks_stand_before_the_end_of_an_answer_that_was_complete_at_once() -> None:
    context = hot_path.context()
    stream, transport = hot_path.relay(context, framing.WEBSOCKET)
    stream.data_received(hot_path.READ)
    answer = context.answers.local(("", "r"))
    assert answer is not None
    number, writes = answer.channel.number, transport.writes
    answer._end(ExchangeResult(finish_reason="stop", usage=None, error=None, content_chunks=1))
    assert answer.channel.number == number + 2, "the chunk, then the end"
    assert transport.writes == writes + 2
    context.answers.turn.end()
    assert answer.channel.number == number + 2
    answer.task.cancel()


async def test_of_many_answers_that_are_complete_few_end_in_each_turn() -> None:
    turn = Turn()
    ended: list[int] = []

    async def end(number: int) -> None:
        await turn.to_end()
        ended.append(number)

    tasks = [asyncio.create_task(end(number)) for number in range(4 * ENDS)]
    after_each_turn = [0]
    while len(ended) < len(tasks):
        await asyncio.sleep(0)
        after_each_turn.append(len(ended))
    assert ended == list(range(len(tasks))), "first come, first served"
    assert max(after - before for before, after in pairwise(after_each_turn)) == ENDS


async def test_an_answer_that_is_cancelled_meanwhile_keeps_no_other_from_its_end() -> None:
    turn = Turn()
    waiting = [asyncio.create_task(turn.to_end()) for _ in range(3 * ENDS)]
    await asyncio.sleep(0)
    for task in waiting[:ENDS]:
        task.cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(*waiting[ENDS:])
    assert all(task.cancelled() for task in waiting[:ENDS])


async def test_what_other_wires_show_is_translated_before_any_of_it_is_written() -> None:
    context = hot_path.context()
    streams = [hot_path.derived(context, face)[0] for face in hot_path.FACES]
    answers = [context.answers.local(("", face)) for face in hot_path.FACES]
    channels = [answer.faces[name].channel for answer in answers if answer for name in answer.faces]
    begun = [channel.number for channel in channels]
    seen: list[list[int]] = []

    def note(_: bytes) -> None:
        seen.append([channel.number for channel in channels])

    for shown in channels:
        for audience in shown.audiences.values():
            audience.viewers = dict.fromkeys(audience.viewers, note)
    for stream in streams:
        stream.data_received(hot_path.READ)
    context.answers.turn.end()
    assert seen == [[number + 1 for number in begun]] * 2
    assert context.answers.turn.later is None
