"""anthropic: messages passed on whole, streamed, raw, many at once; models; what is not there."""

import asyncio
import os

import anthropic

client = anthropic.Anthropic(base_url=os.environ["BASE"], api_key="none", max_retries=0)
ASKED = {"model": "any", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]}
whole = client.messages.create(**ASKED, system="Be brief.", metadata={"user_id": "u"})
assert whole.content[0].text.startswith("t0 t1 "), whole
with client.messages.stream(**ASKED) as stream:
    assert stream.get_final_message().content[0].text == whole.content[0].text
events = list(client.messages.create(**ASKED, stream=True))
assert (events[0].type, events[-1].type) == ("message_start", "message_stop"), events
raw = client.messages.with_raw_response.create(**ASKED)
assert raw.parse().usage.output_tokens == 10
for wrong, ask in (
    (anthropic.NotFoundError, client.messages.batches.list),
    (anthropic.NotFoundError, client.beta.files.list),
):
    try:
        ask()
    except wrong as error:
        assert error.body["error"]["message"], error.body
    else:
        raise AssertionError(wrong)
picture = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
given = client.messages.create(
    model="any",
    max_tokens=100,
    messages=[{"role": "user", "content": [{"type": "image", "source": picture}]}],
    tools=[{"name": "add", "input_schema": {"type": "object"}}],
    tool_choice={"type": "auto"},
    thinking={"type": "enabled", "budget_tokens": 1024},
)
assert given.stop_reason == "end_turn", given
assert "ten-tokens" in [model.id for model in client.models.list()]
try:
    client.models.retrieve("nope")
except anthropic.NotFoundError as error:
    assert error.body["type"] == "error", error.body
else:
    raise AssertionError


async def together() -> None:
    async with anthropic.AsyncAnthropic(base_url=os.environ["BASE"], api_key="none") as sdk:
        messages = await asyncio.gather(*(sdk.messages.create(**ASKED) for _ in range(10)))
        async with sdk.messages.stream(**ASKED) as events:
            text = "".join([piece async for piece in events.text_stream])
    assert {message.content[0].text for message in messages} == {text}


asyncio.run(together())
print("done")
