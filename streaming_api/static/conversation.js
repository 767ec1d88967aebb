// The conversation: its turns, what the server says about them, and how they end. Knows no element of the page.

import { plural } from "./format.js";

const STORED = "streaming-api.conversation";
const LARGEST_STORED = 1_000_000;

/** One question and its answer; `sequence` is the last sequence_id seen, `phase` sending ... ended. */
export function newTurn(question, model) {
  return {
    id: requestId(),
    model,
    question,
    answer: "",
    answeredBy: "",
    notes: [],
    sequence: 0,
    phase: "sending",
    position: null,
    thinking: false,
    stopWanted: false,
    ending: null,
  };
}

// randomUUID exists on https and localhost only; this page is also read over plain http.
function requestId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `page-${[...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

/** The turns so far as OpenAI messages; a turn without an answer is left out, for it taught the model nothing. */
export function asMessages(turns) {
  return turns.flatMap(({ question, answer, phase }) => {
    const asked = { role: "user", content: question };
    if (phase !== "ended") return [asked];
    return answer ? [asked, { role: "assistant", content: answer }] : [];
  });
}

/** Takes one message about a turn. Returns false when it was seen before (a replay). */
export function takeMessage(turn, message) {
  const { sequence_id: sequence, data } = message;
  if (turn.phase === "ended") return false;
  if (sequence === undefined) {
    if (data.error) end(turn, errorEnding(data.error));
    else takeNotice(turn, data);
    return true;
  }
  if (sequence <= turn.sequence) return false;
  if (sequence > turn.sequence + 1) turn.notes.push("Part of this answer was lost on the way.");
  turn.sequence = sequence;
  if (data.object === "chat.completion.end") end(turn, data);
  else if (data.event) takeNotice(turn, data);
  else takeChunk(turn, data);
  return true;
}

function takeNotice(turn, data) {
  if (data.event === "queued") {
    turn.phase = "queued";
    turn.position = data.position;
  } else if (data.event === "model_substituted") noteSubstitution(turn, data);
  else if (data.event === "gap") bridge(turn, data);
}

function noteSubstitution(turn, { requested, model }) {
  turn.answeredBy = model;
  const note = `${requested} is not on this server; ${model} answers instead.`;
  if (!turn.notes.includes(note)) turn.notes.push(note);
}

// What was asked for is not all there: its beginning is gone, or (future) it is another, shorter answer.
function bridge(turn, { reason, to }) {
  if (reason === "future") {
    turn.answer = "";
    turn.sequence = 0;
    return;
  }
  turn.notes.push("Part of this answer is no longer on the server.");
  turn.sequence = to ?? turn.sequence;
}

function takeChunk(turn, data) {
  turn.phase = "streaming";
  if (data.model_substituted) noteSubstitution(turn, data.model_substituted);
  if (typeof data.model === "string" && data.model) turn.answeredBy ||= data.model;
  const choice = data.choices?.[0];
  const text = choice?.delta?.content ?? choice?.delta?.refusal ?? choice?.message?.content;
  if (typeof text === "string") turn.answer += text;
  turn.thinking = !text && typeof choice?.delta?.reasoning_content === "string";
}

function end(turn, ending) {
  turn.phase = "ended";
  turn.position = null;
  turn.ending = ending;
}

const errorEnding = (error) => ({ finish_reason: "error", error });

/** How a turn ended: {tone, text, code}, every ending called what it is. */
export function describeEnding({ ending, stopWanted }) {
  const { finish_reason: reason, error } = ending;
  if (error?.code === "stream_not_found" || error?.code === "stream_evicted") {
    return { tone: "bad", text: "Lost: the server no longer has this answer. Ask again.", code: error.code };
  }
  const code = error?.code || error?.type || "";
  const known = {
    stop: ["ok", ""],
    length: ["warn", "Cut: the answer reached its length limit."],
    content_filter: ["warn", "Cut: the model server's content filter stepped in."],
    tool_calls: ["warn", "Ended: the model asked for a tool, and this page has none."],
    cancelled: ["warn", stopWanted ? "Stopped by you." : "Cancelled: the answer was stopped elsewhere."],
    incomplete: ["bad", error ? `Incomplete: ${error.message}` : "Incomplete: the model server stopped without saying why."],
    error: ["bad", `Failed: ${error?.message ?? "the server gave no reason."}`],
  };
  const [tone, text] = known[reason] ?? ["warn", `Ended: ${reason}.`];
  const unsaid = error && !text.includes(error.message);
  return { tone: unsaid ? "warn" : tone, text: unsaid ? `${text} ${error.message}`.trim() : text, code };
}

/** "12 tokens · first after 81 ms · 0.4 s in all", as far as the server said. */
export function describeCost({ usage, usage_source: source, timing }) {
  const parts = [];
  if (usage?.completion_tokens !== undefined) {
    const estimated = source === "estimated" ? " (estimated)" : "";
    parts.push(plural(usage.completion_tokens, "token") + estimated);
  }
  if (timing?.time_to_first_chunk_ms) parts.push(`first after ${Math.round(timing.time_to_first_chunk_ms)} ms`);
  if (timing?.total_ms) parts.push(`${(timing.total_ms / 1000).toFixed(1)} s in all`);
  return parts.join(" · ");
}

/** Keeps the turns for this tab, so that a reload continues an answer under way. */
export function saveTurns(turns) {
  const text = JSON.stringify(turns);
  if (text.length > LARGEST_STORED) return;
  try {
    sessionStorage.setItem(STORED, text);
  } catch {
    sessionStorage.removeItem(STORED);
  }
}

/** The turns kept for this tab, or none. */
export function loadTurns() {
  try {
    const turns = JSON.parse(sessionStorage.getItem(STORED) ?? "[]");
    return Array.isArray(turns) ? turns : [];
  } catch {
    return [];
  }
}
