// openai (Node): helpers for streams and tools, structured output, choices, errors, raw responses.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.BASE}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Hello" }];
const parameters = {
  type: "object",
  properties: { a: { type: "integer" }, b: { type: "integer" } },
  required: ["a", "b"],
  additionalProperties: false,
};
const schema = {
  type: "object",
  properties: { city: { type: "string" }, size: { type: "integer" } },
  required: ["city", "size"],
  additionalProperties: false,
};
const functions = { add: ({ a, b }) => a + b, sub: ({ a, b }) => a - b };
const names = Object.keys(functions);

const tools = names.map((name) => ({
  type: "function",
  function: { name, function: functions[name], parse: JSON.parse, parameters, description: name },
}));
const runner = client.chat.completions.runTools({ model: "tool-loop", messages, tools });
assert.equal(await runner.finalContent(), "Three and two.");
const streamed = client.chat.completions.runTools({
  model: "tool-loop", messages, tools, stream: true,
});
assert.equal(await streamed.finalContent(), "Three and two.");

const chat = client.chat.completions.stream({ model: "fake", messages });
let text = "";
chat.on("content", (delta) => { text += delta; });
const final = await chat.finalChatCompletion();
assert.equal(final.choices[0].message.content, text);

const two = await client.chat.completions.create({ model: "two-choices", messages, n: 2, stream: true });
const texts = ["", ""];
for await (const chunk of two) {
  for (const choice of chunk.choices) texts[choice.index] += choice.delta.content ?? "";
}
assert.equal(texts[0], texts[1]);
assert.equal(texts[0], text);

const probable = await client.chat.completions.create({
  model: "logprobs", messages, logprobs: true, top_logprobs: 1,
});
assert.equal(probable.choices[0].logprobs.content.map((each) => each.token).join(""), text);
const refused = await client.chat.completions.stream({ model: "refusal", messages })
  .finalChatCompletion();
assert.equal(refused.choices[0].message.refusal, "I cannot.");

const input = [{ role: "user", content: "Hello" }];
const declared = names.map((name) => ({ type: "function", name, parameters, strict: true }));
let response;
for (let turn = 0; turn < 2; turn++) {
  const stream = client.responses.stream({ model: "tool-loop", input, tools: declared, store: false });
  response = await stream.finalResponse();
  input.push(...response.output);
  for (const item of response.output.filter(({ type }) => type === "function_call")) {
    const output = String(functions[item.name](JSON.parse(item.arguments)));
    input.push({ type: "function_call_output", call_id: item.call_id, output });
  }
}
assert.equal(response.output_text, "Three and two.");
const parsed = await client.responses.parse({
  model: "structured",
  input: "Hello",
  text: { format: { type: "json_schema", name: "city", schema, strict: true } },
});
assert.deepEqual(JSON.parse(parsed.output_text), { city: "Paris", size: 2 });
const thinking = await client.responses.create({
  model: "reasoning", input: "Hello", reasoning: { effort: "low", summary: "auto" },
});
assert.deepEqual(thinking.output.map(({ type }) => type), ["reasoning", "message"]);
const kinds = [];
for await (const event of client.responses.stream({ model: "refusal", input: "Hello" })) {
  kinds.push(event.type);
}
assert(kinds.includes("response.refusal.delta") && kinds.includes("response.refusal.done"));

const { data, response: raw } = await client.responses
  .create({ model: "fake", input: "Hello" }).withResponse();
assert.equal(data.output_text, text);
assert(raw.headers.get("x-request-id"));
const background = await client.responses.create({ model: "endless", input: "x", background: true });
assert.equal((await client.responses.cancel(background.id)).status, "cancelled");
await client.responses.delete(background.id);
await assert.rejects(client.responses.retrieve(background.id), OpenAI.NotFoundError);
await assert.rejects(
  client.responses.create({ model: "fake", input: "x", conversation: "conv_1" }),
  (error) => error instanceof OpenAI.BadRequestError && error.param === "conversation",
);
await assert.rejects(
  client.chat.completions.create({ model: "rate-limited", messages }), OpenAI.RateLimitError,
);
await assert.rejects(client.files.list(), OpenAI.NotFoundError);
const leaving = new AbortController();
const left = await client.chat.completions.create(
  { model: "endless", messages, stream: true }, { signal: leaving.signal },
);
for await (const _ of left) leaving.abort();
const { data: models } = await client.models.list();
assert(models.some(({ id }) => id === "fake"));
const embedded = await client.embeddings.create({
  model: "fake", input: "x", encoding_format: "float",
});
assert.deepEqual(embedded.data[0].embedding, [0.25, 0.5]);
console.log("done");
