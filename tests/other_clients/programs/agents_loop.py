"""openai-agents: tools in parallel, structured output, further turns, HTTP and WebSocket."""

import asyncio
import os

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    function_tool,
    responses_websocket_session,
    set_default_openai_client,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel

client = AsyncOpenAI(base_url=os.environ["BASE"] + "/v1", api_key="none", max_retries=0)


class City(BaseModel):
    city: str
    size: int


@function_tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@function_tool
def sub(a: int, b: int) -> int:
    """Subtract two numbers."""
    return a - b


def agent(model: object, **options: object) -> Agent:
    return Agent(name="Assistant", instructions="Be brief.", model=model, **options)


async def main() -> None:
    set_tracing_disabled(True)
    set_default_openai_client(client)
    for make in (OpenAIResponsesModel, OpenAIChatCompletionsModel):
        tools = agent(make("tool-loop", client), tools=[add, sub])
        result = await Runner.run(tools, "Hello")
        assert result.final_output == "Three and two.", result.final_output
        streamed = Runner.run_streamed(tools, "Hello")
        kinds = {event.type async for event in streamed.stream_events()}
        assert {"raw_response_event", "run_item_stream_event"} <= kinds, kinds
        assert streamed.final_output == "Three and two."
        structured = agent(make("structured", client), output_type=City)
        assert (await Runner.run(structured, "Hello")).final_output == City(city="Paris", size=2)
        session = SQLiteSession("one")
        plain = agent(make("fake", client), model_settings=ModelSettings(temperature=0.1))
        for _ in range(2):
            outcome = await Runner.run(plain, "Hello", session=session)
        assert len(await session.get_items()) == 4, await session.get_items()
        assert outcome.final_output.startswith("t0 t1 ")
    first = await Runner.run(plain := agent("fake"), "One", auto_previous_response_id=True)
    second = await Runner.run(plain, "Two", previous_response_id=first.last_response_id)
    assert second.final_output.startswith("t0 t1 ")
    thinking = await Runner.run(agent("reasoning"), "Hello")
    assert [item.type for item in thinking.new_items] == ["reasoning_item", "message_output_item"]
    async with responses_websocket_session(
        base_url=os.environ["BASE"] + "/v1", api_key="none"
    ) as socket:
        tools = agent("tool-loop", tools=[add, sub])
        streamed = socket.run_streamed(tools, "Hello")
        async for _ in streamed.stream_events():
            pass
        assert streamed.final_output == "Three and two."
    print("done")


asyncio.run(main())
