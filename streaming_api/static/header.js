// The header: the service's state, how old the data is, and the banner that says the connection is gone.

import { age, duration } from "./format.js";
import { byId, setText, setTone } from "./dom.js";
import { changed, dataAge, onChange, state } from "./store.js";

const STALE_SECONDS = 5;
const TICK_MS = 200;

/** Wires the header; retry() is called by the banner's button. */
export function startHeader(retry) {
  onChange(["clock", "connection", "status", "figures", "connections"], draw);
  byId("banner-retry").addEventListener("click", retry);
  setInterval(() => changed("clock"), TICK_MS);
  document.addEventListener("visibilitychange", () => changed("clock"));
}

function draw() {
  const seconds = dataAge();
  const stale = seconds !== null && seconds > STALE_SECONDS;
  document.documentElement.classList.toggle("stale", stale);
  drawAge(seconds, stale);
  drawState(stale);
  drawBanner(seconds);
}

function drawAge(seconds, stale) {
  const node = byId("data-age");
  setTone(node, stale ? "bad" : "idle");
  if (seconds === null) setText(node, state.pollProblem || "no data yet");
  else setText(node, stale ? `stale: ${age(seconds)} old` : `updated ${age(seconds)} ago`);
}

const PHASES = {
  starting: ["Connecting", "idle"],
  connecting: ["Connecting", "idle"],
  waiting: ["Disconnected", "bad"],
  closed: ["Not connected", "idle"],
};

const LOST = PHASES.waiting;

function servingState(stale) {
  if (stale && state.pollProblem) return ["Not answering", "bad"];
  return state.status?.state === "draining" ? ["Draining", "warn"] : ["Serving", "ok"];
}

function drawState(stale) {
  const { phase } = state.connection;
  const [text, tone] = phase === "open" ? servingState(stale) : lostSince() === null ? PHASES[phase] : LOST;
  const node = byId("service-state");
  setTone(node, tone);
  setText(node, text);
}

/** Seconds since the connection was lost; null when it is there or never was. */
function lostSince() {
  const { lostAt, phase } = state.connection;
  return lostAt === null || phase === "open" || phase === "closed" ? null : (performance.now() - lostAt) / 1000;
}

function drawBanner(seconds) {
  const { phase, reason, retryAt } = state.connection;
  const lost = lostSince();
  byId("banner").hidden = !(phase === "waiting" || lost !== null || (phase === "closed" && reason));
  if (byId("banner").hidden) return;
  byId("banner-retry").hidden = phase === "connecting";
  setText(byId("banner-title"), phase === "closed" ? reason : `Disconnected. ${reason}`.trim());
  const parts = [];
  if (phase === "waiting") {
    const left = Math.max(0, Math.ceil((retryAt - performance.now()) / 1000));
    parts.push(left > 0 ? `Trying again in ${left} s.` : "Trying again now.");
  } else if (phase === "connecting") parts.push("Trying now.");
  if (seconds !== null && phase !== "closed") parts.push(`What you see is ${duration(seconds)} old.`);
  setText(byId("banner-detail"), parts.join(" "));
}
