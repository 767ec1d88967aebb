// The chat on the page: conversations, their turns, the composer, the settings.

import { arrange, button, byId, element, setText, setTone } from "./dom.js";
import { changed, onChange, state } from "./state.js";
import { keepIn, recall } from "./storage.js";
import { turnView } from "./turn_view.js";

const NEAR_END_PX = 48;
const MOST_DRAWN_AT_ONCE = 60;
const DRAFT = "streaming-api.draft";
const MODEL = "streaming-api.model";
const FIELDS = [
  ["temperature", "Temperature", { min: 0, max: 2, step: 0.1 }],
  ["top_p", "Top p", { min: 0, max: 1, step: 0.05 }],
  ["max_tokens", "Most tokens", { min: 1, step: 1 }],
];

let chat;
let following = true;
const views = new Map();
const ui = {};

/** Builds the chat's elements; returns shown(), to call when they come into view. */
export function startChatView(given) {
  chat = given;
  loadStyle();
  build(byId("chat"));
  onChange(["chat"], drawTurns);
  onChange(["chat", "status", "connection", "models", "complaint"], drawComposer);
  onChange(["chat"], drawStore);
  onChange(["models", "status"], drawModels);
  onChange(["chat-failed"], giveBack);
  setInterval(() => chat.running && changed("chat"), 500);
  drawTurns();
  drawComposer();
  drawModels();
  return { shown: () => ui.question.focus({ preventScroll: true }) };
}

function loadStyle() {
  const link = element("link");
  link.rel = "stylesheet";
  link.href = new URL("chat.css", import.meta.url).href;
  document.head.append(link);
}

// Building

function labelled(text, control, id) {
  control.id = id;
  const label = element("label", "", element("span", "", text), control);
  return label;
}

function build(section) {
  ui.list = element("select");
  ui.list.ariaLabel = "Conversation";
  ui.list.addEventListener("focus", drawList);
  ui.list.addEventListener("change", () => chat.show(ui.list.value));
  ui.list.id = "conversations";
  ui.model = element("select");
  ui.model.addEventListener("change", () => keepIn(localStorage, MODEL, ui.model.value));
  ui.fresh = button("chat-new", "", "New", () => chat.show("").then(() => ui.question.focus()));
  ui.forget = button("chat-delete", "quiet", "Delete", () => chat.remove());
  const head = element("div", "chat-head", ui.list, ui.fresh, ui.forget, labelled("Model", ui.model, "model"));
  ui.note = element("p", "note");
  ui.empty = element("p", "empty", "Ask something. The answer appears here as the model writes it.");
  ui.empty.id = "chat-empty";
  ui.log = element("div", "log", ui.empty);
  Object.assign(ui.log, { id: "chat-log", role: "log", ariaLive: "polite", ariaLabel: "Conversation", tabIndex: 0 });
  ui.log.addEventListener("scroll", () => (following = nearEnd()));
  new ResizeObserver(scrollToEnd).observe(ui.log);
  ui.state = element("p", "state");
  ui.state.id = "chat-state";
  ui.state.role = "status";
  ui.store = element("p", "store");
  ui.store.id = "chat-store";
  section.replaceChildren(element("div", "chat-inside", head, ui.note, ui.log, ui.state, composer(), ui.store, settings()));
  section.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !chat.running) return;
    event.preventDefault();
    chat.stop();
  });
}

function composer() {
  ui.question = element("textarea");
  Object.assign(ui.question, { id: "question", rows: 1, placeholder: "Your message", dir: "auto", ariaLabel: "Your message" });
  ui.question.value = recall(localStorage, DRAFT) ?? "";
  ui.question.addEventListener("keydown", sendOnEnter);
  ui.question.addEventListener("input", () => {
    keepIn(localStorage, DRAFT, ui.question.value);
    fitToText();
    drawComposer();
  });
  ui.send = element("button", "primary", "Send");
  ui.send.id = "chat-send";
  ui.stop = button("chat-stop", "stop", "Stop", () => {
    chat.stop();
    ui.question.focus();
  });
  const keys = element("p", "keys", element("kbd", "", "Enter"), " sends, ", element("kbd", "", "Shift"), "+", element("kbd", "", "Enter"), " starts a new line, ", element("kbd", "", "Esc"), " stops");
  keys.id = "chat-keys";
  ui.question.setAttribute("aria-describedby", "chat-keys");
  ui.form = element("form", "composer", ui.question, ui.send, ui.stop, keys);
  ui.form.id = "chat-form";
  ui.form.addEventListener("submit", submit);
  return ui.form;
}

function settings() {
  ui.system = element("textarea");
  Object.assign(ui.system, { rows: 2, dir: "auto", placeholder: "Said to the model before the conversation" });
  ui.fields = new Map(FIELDS.map(([name, , limits]) => [name, Object.assign(element("input"), { type: "number", placeholder: "default", ...limits })]));
  const take = () => {
    chat.settings.system = ui.system.value;
    for (const [name, input] of ui.fields) chat.settings[name] = input.value;
    chat.keep();
  };
  const box = element("details", "settings", element("summary", "", "System prompt and parameters"), labelled("System prompt", ui.system, "system-prompt"));
  for (const [name, text] of FIELDS) box.append(labelled(text, ui.fields.get(name), `set-${name}`));
  box.addEventListener("change", take);
  return box;
}

// Asking

function sendOnEnter(event) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!ui.send.disabled && !ui.send.hidden) ui.form.requestSubmit();
}

function submit(event) {
  event.preventDefault();
  const question = ui.question.value.trim();
  if (!question || chat.running || chat.obstacle) return;
  askNow(question);
}

function askNow(question) {
  state.complaint = null;
  const problem = chat.ask(question, ui.model.value);
  if (problem) {
    state.complaint = { message: problem, code: "" };
    drawComposer();
    return;
  }
  setDraft("");
  following = true;
  ui.question.focus();
}

function setDraft(text) {
  ui.question.value = text;
  keepIn(localStorage, DRAFT, text);
  fitToText();
  drawComposer();
}

/** A question that got no answer at all stands in the box again, unless something else is there by now. */
function giveBack() {
  const last = chat.turns.at(-1);
  if (last && !ui.question.value) setDraft(last.question);
}

function askAgain(turn) {
  const question = chat.takeBack(turn);
  if (chat.obstacle) setDraft(question);
  else askNow(question);
}

function editAgain(turn) {
  setDraft(chat.takeBack(turn));
  ui.question.focus();
}

function fitToText() {
  ui.question.style.height = "auto";
  ui.question.style.height = `${Math.min(ui.question.scrollHeight + 2, 220)}px`;
}

// Drawing

function nearEnd() {
  return ui.log.scrollHeight - ui.log.scrollTop - ui.log.clientHeight < NEAR_END_PX;
}

/** Shows the newest words, unless the reader scrolled up to read. */
function scrollToEnd() {
  if (following) ui.log.scrollTop = ui.log.scrollHeight;
}

let drawnConversation = "";

function drawTurns() {
  if (drawnConversation !== chat.conversation.id) {
    drawnConversation = chat.conversation.id;
    views.clear();
    following = true;
    drawSettings();
    drawList();
  }
  if (ui.list.dataset.turns !== String(chat.turns.length)) {
    ui.list.dataset.turns = String(chat.turns.length);
    drawList();
  }
  const known = new Set(chat.turns.map(({ id }) => id));
  for (const id of views.keys()) if (!known.has(id)) views.delete(id);
  const nodes = chat.turns.slice(-MOST_DRAWN_AT_ONCE).map((turn) => {
    if (!views.has(turn.id)) views.set(turn.id, turnView(turn, askAgain, editAgain));
    const view = views.get(turn.id);
    view.draw();
    return view.node;
  });
  ui.empty.hidden = nodes.length > 0;
  arrange(ui.log, [ui.empty, ...nodes]);
  scrollToEnd();
}

function drawSettings() {
  ui.system.value = chat.settings.system ?? "";
  for (const [name, input] of ui.fields) input.value = chat.settings[name] ?? "";
}

async function drawList() {
  const kept = await chat.list();
  const { id } = chat.conversation;
  const all = kept.some((each) => each.id === id) ? kept : [{ id, title: "New conversation" }, ...kept];
  const text = JSON.stringify(all);
  if (ui.list.dataset.text !== text) {
    ui.list.dataset.text = text;
    ui.list.replaceChildren(...all.map((each) => new Option(each.title, each.id)));
  }
  ui.list.value = id;
}

function drawComposer() {
  const { running, obstacle } = chat;
  ui.form.hidden = obstacle?.final ?? false;
  ui.form.closest(".chat").classList.toggle("closed", ui.form.hidden);
  const typing = document.activeElement === ui.send || document.activeElement === ui.stop;
  ui.send.hidden = Boolean(running);
  ui.send.disabled = Boolean(obstacle) || !ui.question.value.trim();
  ui.stop.hidden = !running;
  ui.stop.disabled = running?.stopWanted ?? false;
  if (typing && document.activeElement === document.body) ui.question.focus({ preventScroll: true });
  ui.forget.disabled = chat.turns.length === 0;
  const [tone, text] = stateLine(running, obstacle);
  ui.state.ariaLive = chat.waitUntil > performance.now() && ui.state.textContent ? "off" : "polite"; // a countdown is said once
  setTone(ui.state, tone);
  setText(ui.state, text);
}

function stateLine(running, obstacle) {
  if (running) {
    if (state.connection.phase !== "open") return ["warn", "Disconnected; the answer goes on when the connection is back."];
    if (running.stopWanted) return ["warn", "Stopping."];
    if (running.phase === "queued") return ["warn", `Waiting: number ${running.position} in line.`];
    if (running.phase === "sending") return ["idle", "The model is reading."];
    return ["idle", running.thinking ? "The model is thinking." : "The model is writing."];
  }
  if (obstacle?.final) return [obstacle.tone, obstacle.text];
  if (state.complaint) {
    const { message, code } = state.complaint;
    return ["bad", code ? `${message} (${code})` : message];
  }
  return obstacle ? [obstacle.tone, obstacle.text] : ["idle", ""];
}

function drawStore() {
  setText(ui.store, chat.storeProblem);
  ui.store.hidden = !chat.storeProblem;
}

function drawModels() {
  const model = state.status?.model;
  ui.note.hidden = !model?.demonstration;
  if (model?.demonstration) setText(ui.note, `${model.name} is a small demonstration model that runs inside this server. It is often wrong.`);
  const names = chat.models.length > 0 ? chat.models : [model?.name ?? ""];
  const chosen = ui.model.value || recall(localStorage, MODEL);
  const drawn = [...ui.model.options].map(({ value }) => value);
  if (drawn.length > 0 && drawn.join("\n") === names.join("\n")) return;
  ui.model.replaceChildren(...names.map((name) => new Option(name || "default", name)));
  if (names.includes(chosen)) ui.model.value = chosen;
  ui.model.title = chat.modelsProblem;
}
