"""instructor: JSON in its modes, whole and in parts, async, with an image, hooks and errors."""

import asyncio
import os

import instructor
from instructor.core.exceptions import InstructorRetryException
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel


class City(BaseModel):
    city: str
    size: int


ASKED = [{"role": "user", "content": "Which city, how large? As JSON."}]
client = OpenAI(base_url=os.environ["BASE"] + "/v1", api_key="none", max_retries=0)
for mode in (instructor.Mode.JSON, instructor.Mode.JSON_SCHEMA):
    patched = instructor.from_openai(client, mode=mode)
    found = patched.chat.completions.create(model="structured", response_model=City, messages=ASKED)
    assert (found.city, found.size) == ("Paris", 2), (mode, found)
    parts = patched.chat.completions.create_partial(
        model="structured", response_model=City, messages=ASKED
    )
    assert [*parts][-1].city == "Paris", mode
md = instructor.from_openai(client, mode=instructor.Mode.MD_JSON).chat.completions
assert md.create(model="structured", response_model=City, messages=ASKED).city == "Paris"
plain = instructor.from_openai(client, mode=instructor.Mode.JSON)
heard = []
plain.on("completion:response", lambda response: heard.append(response.usage.completion_tokens))
_, raw = plain.chat.completions.create_with_completion(
    model="structured", response_model=City, messages=ASKED
)
assert heard == [raw.usage.completion_tokens], heard
image = instructor.Image.from_base64("data:image/png;base64,iVBORw0KGgo=")
shown = [{"role": "user", "content": ["Which city? As JSON.", image]}]
assert (
    plain.chat.completions.create(model="structured", response_model=City, messages=shown).size == 2
)
try:
    plain.chat.completions.create(
        model="rate-limited", response_model=City, messages=ASKED, max_retries=1
    )
except InstructorRetryException as error:
    assert "Slow down." in str(error), error
else:
    raise AssertionError


async def later() -> None:
    async with AsyncOpenAI(base_url=os.environ["BASE"] + "/v1", api_key="none") as sdk:
        found = instructor.from_openai(sdk, mode=instructor.Mode.JSON).chat.completions
        parts = [
            part
            async for part in found.create_partial(
                model="structured", response_model=City, messages=ASKED
            )
        ]
    assert parts[-1].size == 2, parts


asyncio.run(later())
print("done")
