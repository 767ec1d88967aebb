"""The list of models: every shape of it, and one question for all who ask."""

from __future__ import annotations

import asyncio

import pytest

from streaming_api.upstreams import model_list
from streaming_api.upstreams.model_list import ModelList, Models, ModelsReader
from streaming_api.upstreams.reply_errors import UpstreamError, fault


class Upstream:
    """Answers when it is let, and counts."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []
        self.gate = asyncio.Event()
        self.error = False
        self.now = 100.0

    async def models(self, credential: str | None) -> Models:
        self.asked.append(credential)
        await self.gate.wait()
        if self.error:
            raise UpstreamError(fault("x", "It failed."))
        return [{"id": f"m{len(self.asked)}"}]

    def clock(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b'{"object":"list","data":[{"id":"a"},{"id":"b"}]}', ["a", "b"]),
        (b'[{"id":"a"}]', ["a"]),
        (b'["a","b"]', ["a", "b"]),
        (b'{"models":[{"name":"models/a"}]}', ["models/a"]),
        (b'{"models":[{"model":"a:latest"}]}', ["a:latest"]),
        (b'{"data":[{"id":"a"},1,null,{"x":1}]}', ["a"]),
        (b'{"data":null}', []),
        (b'{"data":[],"error":null}', []),
        (b'{"data":[{"id":"a","cost":NaN},{"id":"\\ud83d"}]}', ["a", "\ufffd"]),
        (b"null", []),
        (b"[]", []),
    ],
)
def test_what_can_be_shown_is(body: bytes, names: list[str]) -> None:
    reader = ModelsReader()
    reader.read_whole(body)
    assert reader.error is None
    assert [model["id"] for model in reader.models] == names


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"7", b'"a"', b"{}", b'{"data":{}}', b'{"data":[1]}', b'{"data":"a"}',
     b'{"error":{"message":"no"},"data":[]}'],
)  # fmt: skip
def test_what_is_no_list_is_an_error(body: bytes) -> None:
    reader = ModelsReader()
    reader.read_whole(body)
    assert reader.error is not None


def test_an_event_stream_is_no_list() -> None:
    reader = ModelsReader()
    reader.read(b'data: {"data":[{"id":"a"}]}\n\n')
    assert reader.error is not None


async def test_one_question_serves_all_who_ask_meanwhile_and_shortly_after() -> None:
    upstream = Upstream()
    models = ModelList(upstream.models, upstream.clock)
    askers = [asyncio.create_task(models.get(None)) for _ in range(450)]
    await asyncio.sleep(0)
    upstream.gate.set()
    assert await asyncio.gather(*askers) == [[{"id": "m1"}]] * 450
    assert await models.get(None) == [{"id": "m1"}]
    assert len(upstream.asked) == 1
    upstream.now += model_list.LIST_KEPT
    assert await models.get(None) == [{"id": "m2"}]


async def test_whoever_leaves_takes_nothing_from_the_others() -> None:
    upstream = Upstream()
    models = ModelList(upstream.models, upstream.clock)
    first = asyncio.create_task(models.get(None))
    await asyncio.sleep(0)
    second = asyncio.create_task(models.get(None))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    upstream.gate.set()
    assert await second == [{"id": "m1"}]
    assert first.cancelled()


async def test_each_credential_has_a_list_of_its_own() -> None:
    upstream = Upstream()
    upstream.gate.set()
    models = ModelList(upstream.models, upstream.clock)
    assert await models.get("Bearer a") != await models.get("Bearer b")
    assert await models.get("Bearer a") == [{"id": "m1"}]
    assert upstream.asked == ["Bearer a", "Bearer b"]


async def test_a_fault_is_everybodys_and_is_soon_forgotten() -> None:
    upstream = Upstream()
    upstream.gate.set()
    upstream.error = True
    models = ModelList(upstream.models, upstream.clock)
    for _ in range(2):
        with pytest.raises(UpstreamError, match=r"It failed\."):
            await models.get(None)
    assert len(upstream.asked) == 1
    upstream.error = False
    upstream.now += model_list.FAULT_KEPT
    assert await models.get(None)


async def test_many_credentials_are_bounded_and_do_not_hold_up_the_own_one() -> None:
    upstream = Upstream()
    models = ModelList(upstream.models, upstream.clock)
    askers = [
        asyncio.create_task(models.get(f"Bearer {number}"))
        for number in range(model_list.MAX_WAITING)
    ]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(upstream.asked) == model_list.AT_ONCE
    with pytest.raises(UpstreamError, match="at once"):
        await models.get("Bearer one more")
    own = asyncio.create_task(models.get(None))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert upstream.asked[-1] is None
    upstream.gate.set()
    assert await own
    await asyncio.gather(*askers)
    assert len(models._kept) <= model_list.MAX_KEPT


async def test_closing_ends_what_is_under_way() -> None:
    upstream = Upstream()
    models = ModelList(upstream.models, upstream.clock)
    asker = asyncio.create_task(models.get(None))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await models.close()
    assert (await asyncio.gather(asker, return_exceptions=True))[0].__class__ is (
        asyncio.CancelledError
    )
