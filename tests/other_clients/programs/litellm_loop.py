"""litellm: tools, responses, embeddings, errors as its own exceptions."""

import asyncio
import json
import os

import litellm

litellm.telemetry = False
WHERE = {"api_base": os.environ["BASE"] + "/v1", "api_key": "none", "max_retries": 0}
PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": PARAMETERS}}
    for name in ("add", "sub")
]
messages = [{"role": "user", "content": "Hello"}]
for _ in range(2):
    reply = litellm.completion(model="openai/tool-loop", messages=messages, tools=TOOLS, **WHERE)
    message = reply.choices[0].message
    messages.append(message.model_dump(exclude_none=True))
    for call in message.tool_calls or ():
        given = json.loads(call.function.arguments)
        result = given["a"] + (given["b"] if call.function.name == "add" else -given["b"])
        messages.append({"role": "tool", "tool_call_id": call.id, "content": str(result)})
assert message.content == "Three and two.", message

response = litellm.responses(model="openai/fake", input="Hello", **WHERE)
assert response.output[0].content[0].text.startswith("t0 t1 "), response
events = list(litellm.responses(model="openai/fake", input="Hello", stream=True, **WHERE))
assert events[-1].type == "response.completed", events[-1]

embedded = litellm.embedding(model="openai/fake", input=["x"], encoding_format="float", **WHERE)
assert embedded.data[0]["embedding"] == [0.25, 0.5], embedded
try:
    litellm.completion(model="openai/rate-limited", messages=messages[:1], **WHERE)
except litellm.RateLimitError as error:
    assert "Slow down." in str(error), error
else:
    raise AssertionError


async def stream() -> None:
    chunks = await litellm.acompletion(
        model="openai/reasoning", messages=messages[:1], stream=True, **WHERE
    )
    text = thought = ""
    async for chunk in chunks:
        text += chunk.choices[0].delta.content or ""
        thought += getattr(chunk.choices[0].delta, "reasoning_content", None) or ""
    assert (text[:6], thought) == ("t0 t1 ", "r0 r1 r2 "), (text, thought)


asyncio.run(stream())
print("done")
