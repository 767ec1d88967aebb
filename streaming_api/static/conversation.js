// The conversation: its turns, what the server says about them, and how they end. Knows no element of the page.

import { plural, rate } from "./format.js";

const MOST_FRAMES = 400;

/** One question and its answer; `sequence` is the last sequence_id seen, `phase` sending ... ended. */
export function newTurn(question, model) {
  return {
    id: requestId(),
    model,
    question,
    answer: "",
    reasoning: "",
    began: Date.now(),
    first: null,
    tokens: 0,
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
export function asMessages(turns, system = "") {
  const before = system.trim() ? [{ role: "system", content: system.trim() }] : [];
  return before.concat(messagesOf(turns));
}

function messagesOf(turns) {
  return turns.flatMap(({ question, answer, phase }) => {
    const asked = { role: "user", content: question };
    if (phase !== "ended") return [asked];
    return answer ? [asked, { role: "assistant", content: answer }] : [];
  });
}

/** Takes one message about a turn. Returns false when it was seen before (a replay). */
export function takeMessage(turn, message) {
  const { sequence_id: sequence, data } = message;
  noteFrame(turn, message);
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

const frames = new Map();

/** The messages about a turn as they came, for who learns the protocol: the last of them. */
export const framesOf = (turn) => frames.get(turn.id) ?? [];

function noteFrame(turn, message) {
  if (!frames.has(turn.id)) frames.set(turn.id, []);
  const kept = frames.get(turn.id);
  kept.push(JSON.stringify(message));
  if (kept.length > MOST_FRAMES) kept.splice(0, 100);
  if (frames.size > 20) frames.delete(frames.keys().next().value);
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
  const delta = choice?.delta ?? choice?.message ?? {};
  const text = textOf(delta.content) ?? textOf(delta.refusal);
  const thought = textOf(delta.reasoning_content) ?? textOf(delta.reasoning);
  if (text || thought) {
    turn.first ??= Date.now();
    turn.tokens += 1;
  }
  if (text) turn.answer += text;
  if (thought) turn.reasoning = (turn.reasoning ?? "") + thought;
  if (text || thought) turn.thinking = !text;
}

const textOf = (value) => (typeof value === "string" && value ? value : undefined);

function end(turn, ending) {
  turn.phase = "ended";
  turn.position = null;
  turn.ending = ending;
}

const errorEnding = (error) => ({ finish_reason: "error", error });

/** How a turn ended: {tone, text, code}, every ending called what it is. */
export function describeEnding({ answer = "", ending, stopWanted }) {
  const { finish_reason: reason, error } = ending;
  if (error?.code === "stream_not_found" || error?.code === "stream_evicted") {
    return { tone: "bad", text: "The server no longer has this answer. Ask again.", code: error.code };
  }
  const code = error?.code || error?.type || "";
  const known = {
    stop: answer ? ["ok", ""] : ["warn", "The model answered with nothing."],
    length: ["warn", "The answer is cut: it reached its length limit."],
    content_filter: ["warn", "The answer is cut: the model server's content filter stepped in."],
    tool_calls: ["warn", "The model asked for a tool, and this page has none."],
    cancelled: ["warn", stopWanted ? "You stopped this answer." : "This answer was stopped elsewhere."],
    abandoned: ["warn", "Nobody was watching any more, so the server stopped this answer."],
    incomplete: ["bad", error ? `The answer is incomplete: ${error.message}` : "The answer is incomplete: the model server stopped without saying why."],
    error: ["bad", `The answer failed: ${error?.message ?? "the server gave no reason."}`],
  };
  const [tone, text] = known[reason] ?? ["warn", `The answer ended as the model server says: ${reason}.`];
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
  const writing = (timing?.total_ms ?? 0) - (timing?.time_to_first_chunk_ms ?? 0);
  if (usage?.completion_tokens > 1 && writing > 0) parts.push(`${rate((usage.completion_tokens / writing) * 1000)} tokens/s`);
  if (timing?.total_ms) parts.push(`${(timing.total_ms / 1000).toFixed(1)} s in all`);
  return parts.join(" · ");
}

/** What is known of the pace of an answer under way, as far as anything is. */
export function describePace({ began, first, tokens }, now) {
  if (first === null || first === undefined) return `${((now - began) / 1000).toFixed(0)} s`;
  const pace = now - first > 500 && tokens > 2 ? ` · ${rate((tokens / (now - first)) * 1000)} tokens/s` : "";
  return `first after ${Math.max(0, first - began)} ms${pace}`;
}
