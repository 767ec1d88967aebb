"""anthropic, passed on to the gateway: messages whole, streamed and raw; what is not there."""

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
print("done")
