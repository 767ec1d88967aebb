// npm's ws asks for one answer, comes back to it whenever the connection breaks, and prints every
// message as a line. node websocket.cjs URL REQUEST_ID
"use strict";
const WebSocket = require("ws");

const [url, requestId] = process.argv.slice(2);
const say = (line) => process.stdout.write(line + "\n");
let seen = 0;
let started = false;

function connect() {
  const socket = new WebSocket(url, { perMessageDeflate: true });
  socket.on("open", () => {
    const command = started
      ? { action: "resume", after: seen }
      : { model: "fake", messages: [{ role: "user", content: "Hello" }] };
    socket.send(
      JSON.stringify({ message_type: "chat_completion", request_id: requestId, ...command })
    );
  });
  socket.on("message", (text) => {
    const message = JSON.parse(text);
    started = true;
    seen = message.sequence_id ?? seen;
    say(text.toString());
    if (message.data.object === "chat.completion.end") {
      socket.on("close", (code) => say(JSON.stringify({ closed: code })));
      socket.close(1000);
      connect.done = true;
    }
  });
  socket.on("error", () => {});
  socket.on("close", () => connect.done || setTimeout(connect, 10));
}

connect();
