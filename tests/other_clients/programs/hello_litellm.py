"""litellm says hello to a small model, which may say a few tokens."""

import os

import litellm

WHERE = {"api_base": os.environ["BASE"] + "/v1", "api_key": "none"}
chunks = litellm.completion(
    model="openai/any",
    messages=[{"role": "user", "content": "Hello"}],
    stream=True,
    max_tokens=12,
    **WHERE,
)
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
print("done")
