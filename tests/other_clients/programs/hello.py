"""Each kind of client in Python says hello to a small model, which may say a few tokens."""

import os

from agents import Agent, ModelSettings, Runner, set_default_openai_client, set_tracing_disabled
from anthropic import Anthropic
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI, OpenAI
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

BASE = os.environ["BASE"]
WHERE = {"base_url": f"{BASE}/v1", "api_key": "none"}
MOST = 12
ASKED = [{"role": "user", "content": "Hello"}]

client = OpenAI(**WHERE)
chat = client.chat.completions.create(
    model="any", messages=ASKED, stream=True, max_completion_tokens=MOST
)
assert "".join(choice.delta.content or "" for chunk in chat for choice in chunk.choices)
response = client.responses.create(model="any", input="Hello", max_output_tokens=MOST)
assert response.output_text, response
assert response.usage.output_tokens <= MOST
with client.responses.connect() as socket:
    socket.response.create(model="any", input="Hello", max_output_tokens=MOST)
    kinds = []
    for event in socket:
        kinds.append(event.type)
        if event.type in {"response.completed", "response.incomplete"}:
            break
assert "response.output_text.delta" in kinds, kinds

set_tracing_disabled(True)
set_default_openai_client(AsyncOpenAI(**WHERE))
agent = Agent(name="A", model="any", model_settings=ModelSettings(temperature=0))  # must end
assert Runner.run_sync(agent, "Hello").final_output

for responses in (True, False):
    model = ChatOpenAI(model="any", use_responses_api=responses, max_tokens=MOST, **WHERE)
    assert "".join(chunk.text for chunk in model.stream("Hello"))

for make in (OpenAIResponsesModel, OpenAIChatModel):
    asking = PydanticAgent(make("any", provider=OpenAIProvider(**WHERE)))
    assert asking.run_sync("Hello", model_settings={"max_tokens": MOST}).output

message = Anthropic(base_url=BASE, api_key="none").messages.create(
    model="any", max_tokens=MOST, messages=ASKED
)
assert message.content[0].text, message
print("done")
