// The chat on the page: conversations, turns as they grow, the composer, the settings.

import { copyText, Growing } from "./markdown.js";
import { describeCost, describeEnding, describePace, framesOf } from "./conversation.js";
import { arrange, byId, element, setText, setTone } from "./dom.js";
import { keepIn, recall } from "./chat.js";
import { changed, onChange, state } from "./state.js";

const NEAR_END_PX = 48;
const MOST_DRAWN_AT_ONCE = 60;
const SLOW_TAIL = 20_000;
const SLOW_MS = 400;
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

function button(id, className, text, act) {
  const made = element("button", className, text);
  made.type = "button";
  if (id) made.id = id;
  made.addEventListener("click", act);
  return made;
}

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
    if (!views.has(turn.id)) views.set(turn.id, turnView(turn));
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

/** The nodes of one turn. */
function turnView(turn) {
  const who = element("h2", "who");
  const thoughts = element("p", "thoughts");
  const reasoning = element("details", "reasoning", element("summary", "", "Reasoning"), thoughts);
  thoughts.dir = "auto";
  const answer = element("div", "text prose");
  const growing = new Growing(answer);
  const notes = element("ul", "notes");
  const ending = element("p", "ending");
  const tools = element("p", "tools");
  const frames = element("pre", "frames");
  const raw = element("details", "raw", element("summary", "", "Messages as they came"), frames);
  frames.tabIndex = 0;
  raw.addEventListener("toggle", () => raw.open && setText(frames, framesOf(turn).join("\n") || "They are not kept over a reload."));
  const asked = element("p", "text", turn.question);
  asked.dir = "auto";
  const question = element("div", "said asked", element("h2", "hidden", "You"), asked);
  question.hidden = !turn.question;
  const node = element("article", "turn", question, element("div", "said answered", who, notes, reasoning, answer, ending, tools, raw));
  let drawnPhase = "";
  let drawnAt = 0;
  return {
    node,
    draw() {
      if (drawnPhase === "ended") return;
      const writing = turn.phase !== "ended";
      if (writing && turn.answer.length > SLOW_TAIL && performance.now() - drawnAt < SLOW_MS) return;
      drawnAt = performance.now();
      drawnPhase = turn.phase;
      setText(who, turn.answeredBy || turn.model || "Model");
      reasoning.hidden = !turn.reasoning;
      setText(thoughts, turn.reasoning ?? "");
      growing.draw(turn.answer);
      arrange(notes, turn.notes.map((note, index) => notes.children[index] ?? element("li", "", note)));
      node.ariaBusy = String(writing);
      answer.classList.toggle("writing", writing);
      answer.hidden = !turn.answer && !writing;
      if (writing) drawPace(ending, turn);
      else drawEnding(ending, turn);
      drawTools(tools, turn, writing);
    },
  };
}

function drawPace(node, turn) {
  setTone(node, "idle");
  setText(node, describePace(turn, Date.now()));
}

function drawEnding(node, turn) {
  const { tone, text, code } = describeEnding(turn);
  setTone(node, tone);
  const said = text || (turn.answer ? "" : "The model answered with nothing.");
  node.replaceChildren(...(said ? [element("strong", "", said)] : []));
  if (code) node.append(" ", element("code", "", code));
  const cost = describeCost(turn.ending);
  if (cost) node.append(said ? " " : "", element("span", "cost", cost));
}

function drawTools(node, turn, writing) {
  const wanted = writing ? "writing" : "ended";
  if (node.dataset.drawn === wanted) return;
  node.dataset.drawn = wanted;
  const copy = button("", "quiet", "Copy", (event) => copyText(turn.answer, event.target));
  const link = button("", "quiet", "Link for another device", (event) => copyText(new URL(`#answer/${turn.id}`, location.href).href, event.target));
  const again = [button("", "quiet", "Retry", () => askAgain(turn)), button("", "quiet", "Edit", () => editAgain(turn))];
  node.replaceChildren(...(writing ? [link] : turn.elsewhere ? [copy] : [copy, ...again]));
}

function drawComposer() {
  const { running, obstacle } = chat;
  ui.form.hidden = obstacle?.final ?? false;
  const typing = document.activeElement === ui.send || document.activeElement === ui.stop;
  ui.send.hidden = Boolean(running);
  ui.send.disabled = Boolean(obstacle) || !ui.question.value.trim();
  ui.stop.hidden = !running;
  ui.stop.disabled = running?.stopWanted ?? false;
  if (typing && document.activeElement === document.body) ui.question.focus({ preventScroll: true });
  ui.forget.disabled = chat.turns.length === 0;
  const [tone, text] = stateLine(running, obstacle);
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
