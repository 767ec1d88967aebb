// Each kind of client in Node says hello to a small model, which may say a few tokens.
import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { streamText } from "ai";
import OpenAI from "openai";

const base = `${process.env.BASE}/v1`;
const client = new OpenAI({ baseURL: base, apiKey: "none" });
const messages = [{ role: "user", content: "Hello" }];
const chat = client.chat.completions.stream({ model: "any", messages, max_completion_tokens: 12 });
assert(await chat.finalContent());
const response = await client.responses.create({ model: "any", input: "Hello", max_output_tokens: 12 });
assert(response.output_text);

const openai = createOpenAI({ baseURL: base, apiKey: "none" });
for (const model of [openai("any"), openai.chat("any")]) {
  assert(await streamText({ model, prompt: "Hello", maxOutputTokens: 12 }).text);
}

const body = { id: "chat", messages: [{ id: "1", role: "user", parts: [{ type: "text", text: "Hello" }] }] };
const ui = await fetch(`${process.env.BASE}/api/chat`, {
  method: "POST", headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ ...body, max_tokens: 12 }),
});
assert.match(await ui.text(), /"type":"text-delta"[^]*data: \[DONE\]/);
console.log("done");
