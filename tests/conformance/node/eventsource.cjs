// npm's eventsource on one URL: prints every event, and the states in between, as lines of JSON.
// node eventsource.cjs URL
"use strict";
const { EventSource } = require("eventsource");

const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const source = new EventSource(process.argv[2]);
const types = ["chat_completion", "metrics_update", "alert", "status_update", "message"];

for (const type of types) {
  source.addEventListener(type, (event) =>
    say({ type: event.type, id: event.lastEventId, data: event.data })
  );
}
source.addEventListener("open", () => say({ state: "open" }));
source.addEventListener("error", (event) => {
  const closed = source.readyState === EventSource.CLOSED;
  say({ state: closed ? "closed" : "again", status: event.code ?? null });
});
