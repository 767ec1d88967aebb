// The chat on the page: turns as they grow, the composer, the model choice.

import { describeCost, describeEnding } from "./conversation.js";
import { arrange, byId, element, setText, setTone } from "./dom.js";
import { onChange, state } from "./store.js";

const NEAR_END_PX = 48;
const views = new Map();
let chat;
let following = true;

/** Wires the chat to the page. */
export function startChatView(given) {
  chat = given;
  onChange(["chat"], drawTurns);
  onChange(["chat", "status", "connection", "models", "complaint"], drawComposer);
  onChange(["models", "status"], drawModels);
  onChange(["status"], drawNote);
  byId("chat-form").addEventListener("submit", submit);
  byId("chat-stop").addEventListener("click", () => chat.stop());
  byId("chat-new").addEventListener("click", () => {
    chat.clear();
    byId("question").focus();
  });
  byId("question").addEventListener("keydown", sendOnEnter);
  byId("question").addEventListener("input", () => {
    fitToText();
    drawComposer();
  });
  byId("chat-log").addEventListener("scroll", () => (following = nearEnd()));
  new ResizeObserver(scrollToEnd).observe(byId("chat-log"));
  drawTurns();
  drawComposer();
  drawModels();
}

function nearEnd() {
  const log = byId("chat-log");
  return log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END_PX;
}

/** Shows the newest words, unless the reader scrolled up to read. */
function scrollToEnd() {
  if (following) byId("chat-log").scrollTop = byId("chat-log").scrollHeight;
}

function sendOnEnter(event) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!byId("chat-send").disabled) byId("chat-form").requestSubmit();
}

function submit(event) {
  event.preventDefault();
  const box = byId("question");
  const question = box.value.trim();
  if (!question || chat.running || chat.obstacle) return;
  state.complaint = null;
  const problem = chat.ask(question, byId("model").value);
  if (problem) {
    state.complaint = { message: problem, code: "" };
    drawComposer();
    return;
  }
  box.value = "";
  fitToText();
  following = true;
  drawComposer();
}

function fitToText() {
  const box = byId("question");
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight + 2, 200)}px`;
}

function drawTurns() {
  const log = byId("chat-log");
  const known = new Set(chat.turns.map(({ id }) => id));
  for (const id of views.keys()) if (!known.has(id)) views.delete(id);
  const nodes = chat.turns.map((turn) => {
    if (!views.has(turn.id)) views.set(turn.id, turnView(turn));
    const view = views.get(turn.id);
    view.draw();
    return view.node;
  });
  byId("chat-empty").hidden = nodes.length > 0;
  arrange(log, [byId("chat-empty"), ...nodes]);
  scrollToEnd();
}

/** The nodes of one turn. The answer is one text node that only ever grows. */
function turnView(turn) {
  const text = document.createTextNode("");
  const who = element("h3", "who");
  const answer = element("p", "text", text);
  const notes = element("ul", "notes");
  const ending = element("p", "ending");
  const node = element(
    "article",
    "turn",
    element("div", "said asked", element("h3", "hidden", "You"), element("p", "text", turn.question)),
    element("div", "said answered", who, notes, answer, ending),
  );
  let drawnPhase = "";
  return {
    node,
    draw() {
      if (drawnPhase === "ended") return;
      drawnPhase = turn.phase;
      if (turn.answer.length < text.length) text.data = turn.answer;
      else if (turn.answer.length > text.length) text.appendData(turn.answer.slice(text.length));
      setText(who, turn.answeredBy || turn.model || "Model");
      arrange(notes, turn.notes.map((note, index) => notes.children[index] ?? element("li", "", note)));
      const writing = turn.phase !== "ended";
      node.ariaBusy = String(writing);
      answer.classList.toggle("writing", writing);
      answer.hidden = !turn.answer && !writing;
      if (!writing) drawEnding(ending, turn);
    },
  };
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

function drawComposer() {
  const running = chat.running;
  const obstacle = chat.obstacle;
  byId("chat-send").hidden = Boolean(running);
  byId("chat-send").disabled = Boolean(obstacle) || !byId("question").value.trim();
  byId("chat-stop").hidden = !running;
  byId("chat-stop").disabled = running?.stopWanted ?? false;
  byId("chat-new").disabled = chat.turns.length === 0;
  const line = byId("chat-state");
  const [tone, text] = stateLine(running, obstacle);
  setTone(line, tone);
  setText(line, text);
}

function stateLine(running, obstacle) {
  if (running) {
    if (state.connection.phase !== "open") return ["warn", "Disconnected; the answer goes on when the connection is back."];
    if (running.stopWanted) return ["warn", "Stopping."];
    if (running.phase === "queued") return ["warn", `Waiting: number ${running.position} in line.`];
    if (running.phase === "sending") return ["idle", "The model is reading."];
    return ["idle", running.thinking ? "The model is thinking." : "The model is writing."];
  }
  if (state.complaint) {
    const { message, code } = state.complaint;
    return ["bad", code ? `${message} (${code})` : message];
  }
  return obstacle ? [obstacle.tone, obstacle.text] : ["idle", ""];
}

function drawModels() {
  const select = byId("model");
  const fallback = state.status?.model?.name ?? "default";
  const names = chat.models.length > 0 ? chat.models : [fallback];
  const chosen = select.value;
  const drawn = [...select.options].map(({ value }) => value);
  if (drawn.join("\n") === names.join("\n")) return;
  select.replaceChildren(...names.map((name) => new Option(name, name)));
  if (names.includes(chosen)) select.value = chosen;
  select.title = chat.modelsProblem;
}

function drawNote() {
  const note = byId("chat-note");
  const model = state.status?.model;
  note.hidden = !model?.demonstration;
  if (model?.demonstration) {
    setText(note, `${model.name} is a small demonstration model that runs inside this server. It is often wrong.`);
  }
}
