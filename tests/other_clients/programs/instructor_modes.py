"""instructor: JSON, JSON schema and Responses modes, whole and in parts."""

import os

import instructor
from openai import OpenAI
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
print("done")
