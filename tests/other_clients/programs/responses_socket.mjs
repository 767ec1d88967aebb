// openai (Node): the WebSocket of the Responses API, which dials again after a cut and goes on.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { ResponsesWS } from "openai/resources/responses/ws";

const client = new OpenAI({ baseURL: `${process.env.BASE}/v1`, apiKey: "none" });
const seen = [];
const socket = new ResponsesWS(client, {
  reconnect: {
    initialDelay: 10,
    onReconnecting: () => ({
      parameters: { response_id: seen[0].response.id, starting_after: seen.at(-1).sequence_number },
    }),
  },
});
let cuts = 0;
socket.on("reconnected", () => { cuts++; });
socket.send({ type: "response.create", model: "cut", input: "Hello" });
for await (const event of socket) {
  if (event.type === "error") throw event.error;
  if (event.type !== "message") continue;
  seen.push(event.message);
  if (event.message.type === "response.completed") break;
}
assert.deepEqual(seen.map((event) => event.sequence_number), seen.map((_, place) => place));
const deltas = seen.filter(({ type }) => type === "response.output_text.delta");
console.log(deltas.map(({ delta }) => delta).join(""));

const prepared = await turn({ generate: false, input: "You are a pirate.", store: false });
assert.deepEqual(prepared.output, []);
const next = await turn({ previous_response_id: prepared.id, input: "Hello", store: false });
assert.equal(next.status, "completed");
const lanes = await Promise.all(["a", "b"].map((lane) => turn({ stream_id: lane, input: lane })));
assert(lanes.every(({ status }) => status === "completed"));
socket.close();
console.log(`${cuts} cuts, done`);

function turn(fields) {
  return new Promise((resolve) => {
    const lane = fields.stream_id;
    const take = (event) => {
      if (event.stream_id === lane) {
        socket.off("response.completed", take);
        resolve(event.response);
      }
    };
    socket.on("response.completed", take);
    socket.send({ type: "response.create", model: "fake", ...fields });
  });
}
