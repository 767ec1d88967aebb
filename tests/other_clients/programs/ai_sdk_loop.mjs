// AI SDK: tools in parallel, objects, reasoning, images, errors; Responses and chats.
import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { embed, generateText, jsonSchema, Output, stepCountIs, streamText, tool } from "ai";

const openai = createOpenAI({ baseURL: `${process.env.BASE}/v1`, apiKey: "none" });
const numbers = jsonSchema({
  type: "object",
  properties: { a: { type: "integer" }, b: { type: "integer" } },
  required: ["a", "b"],
  additionalProperties: false,
});
const city = jsonSchema({
  type: "object",
  properties: { city: { type: "string" }, size: { type: "integer" } },
  required: ["city", "size"],
  additionalProperties: false,
});
const tools = {
  add: tool({ description: "Add.", inputSchema: numbers, execute: async ({ a, b }) => a + b }),
  sub: tool({ description: "Subtract.", inputSchema: numbers, execute: async ({ a, b }) => a - b }),
};
const options = { maxRetries: 0, prompt: "Hello" };

for (const model of [openai, openai.chat]) {
  const loop = { ...options, model: model("tool-loop"), tools, stopWhen: stepCountIs(5) };
  const whole = await generateText(loop);
  assert.equal(whole.text, "Three and two.");
  assert.deepEqual(whole.steps[0].toolResults.map(({ output }) => output), [3, 2]);
  const streamed = streamText(loop);
  const kinds = new Set();
  for await (const part of streamed.fullStream) kinds.add(part.type);
  assert.equal(await streamed.text, "Three and two.");
  for (const kind of ["tool-call", "tool-result", "text-delta", "finish"]) assert(kinds.has(kind), kind);

  const structured = await generateText({
    ...options, model: model("structured"), output: Output.object({ schema: city }),
  });
  assert.deepEqual(structured.output, { city: "Paris", size: 2 });
  const partial = streamText({
    ...options, model: model("structured"), output: Output.object({ schema: city }),
  });
  let last;
  for await (const object of partial.partialOutputStream) last = object;
  assert.deepEqual(last, { city: "Paris", size: 2 });

  const { usage, finishReason } = await generateText({ ...options, model: model("fake") });
  assert.equal(usage.outputTokens, 10);
  assert.equal(finishReason, "stop");
  const image = { type: "image", image: "data:image/png;base64,iVBORw0KGgo=" };
  const seen = await generateText({
    model: model("fake"),
    messages: [{ role: "user", content: [{ type: "text", text: "What is it?" }, image] }],
  });
  assert(seen.text.startsWith("t0 t1 "));
  await assert.rejects(
    generateText({ ...options, model: model("rate-limited") }),
    (error) => error.statusCode === 429 && error.message.includes("Slow down."),
  );
  const leaving = new AbortController();
  const endless = streamText({ ...options, model: model("endless"), abortSignal: leaving.signal });
  for await (const part of endless.fullStream) if (part.type === "text-delta") leaving.abort();
}
const thinking = await generateText({
  ...options, model: openai("reasoning"),
  providerOptions: { openai: { reasoningSummary: "auto", reasoningEffort: "low" } },
});
assert.equal(thinking.reasoningText, "r0 r1 r2 ");
const previous = await generateText({ ...options, model: openai("fake") });
const next = await generateText({
  ...options, model: openai("fake"),
  providerOptions: { openai: { previousResponseId: previous.providerMetadata.openai.responseId } },
});
assert(next.text.startsWith("t0 t1 "));
const { embedding } = await embed({ model: openai.embedding("fake"), value: "Hello" });
assert.deepEqual(embedding, [0.25, 0.5]);
console.log("done");
