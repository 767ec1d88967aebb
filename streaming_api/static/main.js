// The live page's composition root: which parts there are, and who tells whom.

import { askForKey, keyMissing, keyRefused, startAccess, subprotocols } from "./access.js";
import { startAlerts } from "./alerts.js";
import { Chat } from "./chat.js";
import { startChatView } from "./chat_view.js";
import { Connection } from "./connection.js";
import { startFigures } from "./figures.js";
import { startHeader } from "./header.js";
import { startHealth } from "./health.js";
import { startMetrics } from "./metrics.js";
import { pollForever, pollNow, readStatus } from "./polls.js";
import { changed, state } from "./store.js";
import { foldTopic } from "./topics.js";

const TOPICS = { metrics: "metrics_update", alerts: "alert", status: "status_update" };

const connection = new Connection({ prepare, protocols: subprotocols, onMessage, onPhase });
const chat = new Chat((command) => connection.send(command));

startAccess(() => connection.connect());
startHeader(() => connection.connect());
startFigures();
startHealth();
startAlerts();
startMetrics();
startChatView(chat);
addEventListener("online", () => connection.open || connection.connect());
connection.connect();
pollForever(() => connection.open || state.websocketOff, keyRefused);

/** What must be known before the socket opens: may we, and which topics are there. */
async function prepare() {
  if (keyMissing()) {
    askForKey("");
    throw final("");
  }
  const capabilities = await readCapabilities();
  state.websocketOff = capabilities.websocket === false;
  if (state.websocketOff) {
    throw final("WebSocket is turned off on this server: the headline figures are live, the rest is not.");
  }
  return Object.keys(TOPICS).filter((topic) => capabilities[topic] !== false).map((topic) => TOPICS[topic]);
}

/** What the server offers; nothing is known with a key that may chat but not watch. */
async function readCapabilities() {
  try {
    return (await readStatus()).capabilities;
  } catch (problem) {
    if (problem.status === 403) return {};
    if (problem.status !== 401) throw problem;
    keyRefused(problem.message);
    throw final("");
  }
}

const final = (message) => Object.assign(new Error(message), { final: true });

function onPhase(now) {
  const lost = state.connection.phase === "open" ? performance.now() : state.connection.lostAt;
  state.connection = { retryAt: 0, ...now, lostAt: now.phase === "open" ? null : lost };
  changed("connection");
  if (now.phase !== "open") return;
  pollNow();
  chat.reconnected();
  chat.readModels();
}

function onMessage(message) {
  if (message.message_type === "chat_completion") {
    chat.receive(message);
    return;
  }
  if (message.data.error) {
    state.complaint = message.data.error;
    changed("complaint");
    if (message.data.error.code === "too_many_commands") chat.commandsRefused();
    return;
  }
  foldTopic(message);
  if (message.message_type === "status_update" && message.data.event !== "subscribed") followStatus();
}

let following = false;

/** A component changed: what the server offers, and its models, may have changed with it. */
async function followStatus() {
  if (following) return;
  following = true;
  try {
    await readStatus();
    await chat.readModels();
  } catch {
    // The polls say how old the data is, and the connection says when it is gone.
  } finally {
    following = false;
  }
}
