"""LangChain: tools in parallel, structured output, reasoning, batches; Responses and chats."""

import os

import openai
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel


class City(BaseModel):
    city: str
    size: int


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def sub(a: int, b: int) -> int:
    """Subtract two numbers."""
    return a - b


def chat(name: str, **options: object) -> ChatOpenAI:
    base = os.environ["BASE"] + "/v1"
    return ChatOpenAI(model=name, base_url=base, api_key="none", max_retries=0, **options)


for responses in (True, False):
    model = chat("tool-loop", use_responses_api=responses).bind_tools([add, sub])
    for streamed in (True, False):
        messages = [HumanMessage("Hello")]
        for _ in range(2):
            if streamed:
                message = None
                for chunk in model.stream(messages):
                    message = chunk if message is None else message + chunk
            else:
                message = model.invoke(messages)
            messages.append(message)
            for call in message.tool_calls:
                result = {"add": add, "sub": sub}[call["name"]].invoke(call["args"])
                messages.append(ToolMessage(str(result), tool_call_id=call["id"]))
        assert message.text == "Three and two.", message
        assert len(messages) == 5, messages
    structured = chat("structured", use_responses_api=responses).with_structured_output(City)
    assert structured.invoke("Hello") == City(city="Paris", size=2)
    replies = chat("fake", use_responses_api=responses).batch(["One", "Two"])
    assert all(reply.text.startswith("t0 t1 ") for reply in replies), replies
    usage = chat("fake", use_responses_api=responses).invoke("Hello").usage_metadata
    assert usage["output_tokens"] == 10, usage
    cut = chat("cut-rst", use_responses_api=responses)
    for ask in (cut.invoke, lambda text, cut=cut: [*cut.stream(text)]):
        try:
            shown = ask("Hello")
        except (ValueError, openai.APIError) as error:
            assert "connection to the upstream broke" in str(error), error
        else:
            raise AssertionError(shown)
    image = {"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"}
    asked = HumanMessage([{"type": "text", "text": "What is it?"}, image])
    assert chat("fake", use_responses_api=responses).invoke([asked]).text
thinking = chat("reasoning", use_responses_api=True, reasoning={"summary": "auto"}).invoke("Hello")
assert "reasoning" in [block["type"] for block in thinking.content_blocks], thinking
first = chat("fake", use_responses_api=True, use_previous_response_id=True)
first_reply = first.invoke("One")
again = first.invoke([HumanMessage("One"), first_reply, HumanMessage("Two")])
assert again.text.startswith("t0 t1 ")
embedding = OpenAIEmbeddings(
    model="fake",
    base_url=os.environ["BASE"] + "/v1",
    api_key="none",
    check_embedding_ctx_length=False,
)
assert embedding.embed_query("Hello") == [0.25, 0.5]
print("done")
