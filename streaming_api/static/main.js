// The live page's composition root: which parts there are, who notifies whom, and what the address remembers.

import { shownWindow, startCharts, view } from "./charts.js";
import { byId } from "./dom.js";
import { changed, drawDirty, fold, onChange, report, state } from "./state.js";

const TOPICS = { history: "metrics", alerts: "alerts", status: "status" };
const keys = document.documentElement.dataset.access === "keys";
const cursors = new Map();
let access = null;
let chat = null;
let series = null;
let fine = false;

// The charts need six modules, which a browser asks for at once; the rest comes while they are drawn already.

const wall = readAddress();
const first = JSON.parse(byId("first").textContent);
if (first) takeSnapshot(unpacked(first));
startCharts(writeAddress);
changed("history");
drawDirty();

const [{ startVerdict, startParts }, { Connection }, { startAlerts }, { startEvents }] = await Promise.all([
  import("./verdict.js"),
  import("./connection.js"),
  import("./alerts.js"),
  import("./events.js"),
]);

const connection = new Connection({
  prepare,
  protocols: () => access?.subprotocols() ?? [],
  socketOff: () => state.status?.capabilities?.websocket === false,
  message: onMessage,
  phase: onPhase,
});

startVerdict(() => connection.connect());
startParts();
startAlerts(writeAddress);
startEvents();
onChange(["status"], () => (byId("chat-toggle").hidden = state.status?.capabilities?.chat === false));
for (const part of ["clock", "status", "alerts", "components", "events", "connection"]) changed(part);
drawDirty();
addEventListener("online", () => connection.open || connection.connect());
addEventListener("hashchange", showView);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address says which view is shown
  byId("overview").focus();
});
byId("chat-toggle").addEventListener("click", toggleDrawer);
connection.connect();
showView();
if (wall) import("./wall.js").then(({ startWall }) => startWall());
if (new URLSearchParams(location.search).get("stars")) openSeries();
document.documentElement.classList.add("ready");

// Before and after a connection

/** What must be known before the socket opens: may we, which topics are there, and where to go on. */
async function prepare() {
  if (keys) await askWithKey();
  const capabilities = state.status?.capabilities ?? {};
  const scopes = state.status?.scopes ?? ["watch"];
  const names = Object.keys(TOPICS).filter((topic) => capabilities[TOPICS[topic]] !== false && scopes.includes("watch"));
  return Object.fromEntries(names.map((topic) => [topic, cursors.get(topic) ?? ""]));
}

/** With keys the document says nothing: what is first is asked for with the key. */
async function askWithKey() {
  if (!access) {
    access = await import("./access.js");
    access.startAccess(() => connection.connect());
  }
  if (access.keyMissing()) {
    access.askForKey("");
    throw final("");
  }
  const { ask } = await import("./requests.js");
  try {
    takeSnapshot(await ask("GET", "streaming/snapshot"));
  } catch (problem) {
    if (problem.status === 403) state.status = { scopes: ["chat"], capabilities: {} };
    else if (problem.status === 401) {
      access.keyRefused(problem.message);
      throw final("");
    } else throw problem;
  }
  changed("status");
}

function final(message) {
  return Object.assign(new Error(message), { final: true });
}

/** The document's snapshot: each of its times but the first says how long after the last it was. */
function unpacked(snapshot) {
  for (const { stream_id: stream, data } of snapshot.messages) {
    let time = 0;
    if (stream === "history") data.times = data.times.map((later) => (time += later));
  }
  return snapshot;
}

/** The first picture. What led to it is replayed: alerts and components from the start of their log. */
function takeSnapshot({ status, messages }) {
  state.status = status;
  for (const message of messages) {
    fold(message);
    const [epoch, number] = message.cursor.split(":");
    const replay = message.stream_id !== "history" && Number(number) > 1;
    if (!cursors.has(message.stream_id)) cursors.set(message.stream_id, replay ? `${epoch}:1` : message.cursor);
  }
  changed("status");
}

function onPhase(now) {
  const { connection: before } = state;
  const lost = before.phase === "open" ? performance.now() : before.lostAt;
  if (before.phase === "open" && now.phase !== "open") report({ time: Date.now() + state.clockOffset, kind: "lost", name: "This page", detail: now.reason });
  if (now.phase === "open" && before.lostAt !== null) report({ time: Date.now() + state.clockOffset, kind: "back", name: "This page", detail: "" });
  const reason = now.reason || (now.phase === "connecting" ? before.reason : "");
  state.connection = { retryAt: 0, ...now, reason, lostAt: now.phase === "open" ? null : lost };
  changed("connection");
  if (now.phase !== "open") return;
  if (chat) chat.connected();
  else if (before.lostAt !== null) import("./requests.js").then(({ readStatus }) => readStatus());
}

function onMessage(message) {
  if (message.message_type === "chat_completion") chat?.receive(message);
  else if (message.data.error) {
    state.complaint = message.data.error;
    changed("complaint");
    if (message.data.error.code === "too_many_commands") chat?.commandsRefused();
  } else {
    fold(message);
    if (message.message_type === "status_update" && message.data.event === "changed") chat?.statusChanged();
  }
}

// Views: the overview, the chat, the series; chat and series are loaded when they are first wanted

function showView() {
  const [name, id] = location.hash.slice(1).split("/");
  const wall = document.body.dataset.wall === "yes";
  const shown = wall ? "wall" : { chat: "chat", answer: "chat", series: "series" }[name] ?? "overview";
  document.body.dataset.view = shown;
  for (const link of document.querySelectorAll("nav.views a")) {
    if (link.dataset.view === shown) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (shown === "chat") {
    if (document.body.classList.contains("drawer")) toggleDrawer();
    openChat().then(() => name === "answer" && id && chat.openAnswer(decodeURIComponent(id)));
  }
  if (shown === "series") openSeries().then(() => series.shown());
  connection.watch("metrics", shown === "series" || (series?.starred() ?? false));
  byId("series").hidden = shown !== "series";
  changed("view");
}

async function openChat() {
  if (!chat) {
    const { startChat } = await import("./chat.js");
    chat ??= startChat((command) => connection.send(command), () => connection.open);
  }
  byId("chat").hidden = false;
  chat.shown();
}

async function toggleDrawer() {
  const open = document.body.classList.toggle("drawer");
  byId("chat-toggle").setAttribute("aria-expanded", String(open));
  byId("chat-toggle").textContent = open ? "Close" : "Ask the model";
  if (open) await openChat();
}

async function openSeries() {
  if (!series) {
    const { startSeries } = await import("./series.js");
    series ??= startSeries(writeAddress, (wanted) => connection.watch("metrics", wanted || document.body.dataset.view === "series"));
  }
  connection.watch("metrics", document.body.dataset.view === "series" || series.starred());
}

// The address: what it says is shown, and what is shown it says, so that it can be sent to somebody

function readAddress() {
  const query = new URLSearchParams(location.search);
  const minutes = Number(query.get("range"));
  if ([5, 15, 60].includes(minutes)) view.minutes = minutes;
  const [from, to] = [Number(query.get("from")), Number(query.get("to"))];
  if (from > 0 && to > from) view.zoom = [from, to];
  byId("alerts-filter").value = query.get("filter") ?? "";
  const wall = query.get("view") === "wall";
  document.body.dataset.wall = wall ? "yes" : "no";
  document.body.dataset.view = wall ? "wall" : "overview";
  return wall;
}

function writeAddress() {
  const query = new URLSearchParams(location.search);
  const put = (name, value) => (value ? query.set(name, value) : query.delete(name));
  put("range", view.minutes === 5 ? "" : String(view.minutes));
  put("from", view.zoom ? String(view.zoom[0]) : "");
  put("to", view.zoom ? String(view.zoom[1]) : "");
  put("filter", byId("alerts-filter").value.trim());
  if (series) put("stars", series.stars().join("|"));
  const search = query.toString();
  history.replaceState(null, "", `${location.pathname}${search ? `?${search}` : ""}${location.hash}`);
  if (view.zoom) fetchFine();
}

// A zoom into what is known only by ten seconds fetches it by the second, once

async function fetchFine() {
  const newest = state.history.times.at(-1) ?? 0;
  if (fine || shownWindow()[0] > newest - 290) return;
  fine = true;
  const { ask } = await import("./requests.js");
  try {
    const { times, series: columns, marks } = await ask("GET", "streaming/history?since=0");
    fold({ message_type: "metrics_update", stream_id: "history", timestamp: new Date().toISOString(), data: { event: "snapshot", times, series: columns, marks } });
  } catch {
    fine = false;
  }
}
