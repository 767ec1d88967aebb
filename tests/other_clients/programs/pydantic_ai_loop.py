"""pydantic-ai: tools in parallel, structured output, streams, history, images; both models."""

import asyncio
import os

from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

provider = OpenAIProvider(base_url=os.environ["BASE"] + "/v1", api_key="none")


class City(BaseModel):
    city: str
    size: int


def with_tools(model: object) -> Agent:
    agent = Agent(model)

    @agent.tool_plain
    def add(a: int, b: int) -> int:
        return a + b

    @agent.tool_plain
    def sub(a: int, b: int) -> int:
        return a - b

    return agent


async def main() -> None:
    for make in (OpenAIResponsesModel, OpenAIChatModel):
        agent = with_tools(make("tool-loop", provider=provider))
        result = await agent.run("Hello")
        assert result.output == "Three and two.", result.output
        async with agent.run_stream("Hello") as streamed:
            text = [piece async for piece in streamed.stream_text(delta=True)]
        assert "".join(text) == "Three and two.", text
        structured = Agent(make("structured", provider=provider), output_type=NativeOutput(City))
        assert (await structured.run("Hello")).output == City(city="Paris", size=2)
        plain = Agent(make("fake", provider=provider), instructions="Be brief.")
        first = await plain.run("One")
        second = await plain.run("Two", message_history=first.all_messages())
        assert second.output.startswith("t0 t1 ")
        assert second.usage.output_tokens == 10, second.usage
        image = BinaryContent(b"\x89PNG\r\n\x1a\n", media_type="image/png")
        assert (await plain.run(["What is it?", image])).output.startswith("t0 ")
        thinking = await Agent(make("reasoning", provider=provider)).run("Hello")
        kinds = [part.part_kind for message in thinking.all_messages() for part in message.parts]
        assert "thinking" in kinds, kinds
    print("done")


asyncio.run(main())
