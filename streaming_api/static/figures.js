// The headline figures: connections against their limits, delivery latency, tokens per second, alerts.

import { count, latency, percent, plural, rate } from "./format.js";
import { byId, setText, setTone } from "./dom.js";
import { drawSparkline, sparkline } from "./sparkline.js";
import { onChange, state } from "./store.js";

const RATE_SPAN_MS = 120_000;
const NEARLY_FULL = 0.9;
const FILLING = 0.75;

const part = (id, name) => byId(`figure-${id}`).querySelector(`[data-part="${name}"]`);

/** Wires the cards. */
export function startFigures() {
  part("tokens", "spark").append(sparkline());
  onChange(["connections"], () => ["websocket", "sse"].forEach(drawConnections));
  onChange(["figures"], () => {
    drawLatency();
    drawTokens();
  });
  onChange(["alerts", "status"], drawAlerts);
}

function draw(id, tone, value, unit, detail) {
  setTone(byId(`figure-${id}`), tone);
  setText(part(id, "value"), value);
  setText(part(id, "unit"), unit);
  setText(part(id, "detail"), detail);
}

function drawConnections(kind) {
  const { open, limit } = state.connections[kind];
  const enabled = state.status?.capabilities?.[kind] !== false;
  const share = limit > 0 ? Math.min(1, open / limit) : 0;
  const tone = share >= NEARLY_FULL ? "bad" : share >= FILLING ? "warn" : "ok";
  const words = { ok: "of the limit", warn: "of the limit, filling up", bad: "of the limit, nearly full" };
  const detail = `${percent(share * 100)} ${words[tone]}`;
  if (enabled) draw(kind, tone, count(open), `of ${count(limit)}`, detail);
  else draw(kind, "idle", "–", "", "turned off in the configuration");
  const meter = part(kind, "meter");
  meter.ariaValueMax = String(limit);
  meter.ariaValueNow = String(open);
  meter.ariaValueText = `${count(open)} of ${count(limit)}`;
  meter.firstElementChild.style.width = open > 0 ? `max(3px, ${share * 100}%)` : "0";
}

// The server reports the bound of the histogram's bucket that a percentile falls in: "at most".
const atMost = (seconds) => `≤ ${latency(seconds).join(" ")}`;

function drawLatency() {
  const { websocket, sse } = state.figures.delivery_latency_seconds;
  const [main, other] = websocket.p50 === null ? [sse, websocket] : [websocket, sse];
  if (main.p50 === null) return draw("latency", "idle", "–", "", "nothing delivered yet");
  const [value, unit] = latency(main.p50);
  const tone = main.p99 > 0.1 ? "bad" : "ok";
  const slow = main.p99 > 0.1 ? ", over 100 ms" : "";
  const name = main === websocket ? "" : "SSE, ";
  const rest = other.p50 === null ? "" : ` · SSE p99 ${atMost(other.p99)}`;
  return draw("latency", tone, `≤ ${value}`, `${unit} median`, `${name}p99 ${atMost(main.p99)}${slow}${rest}`);
}

function drawTokens() {
  const { tokens_per_second: tokens, answers } = state.figures;
  const waiting = answers.queued > 0 ? `, ${count(answers.queued)} waiting` : "";
  const tone = answers.queued > 0 ? "warn" : "ok";
  draw("tokens", tone, rate(tokens), "", `${plural(answers.running, "answer")} running${waiting}`);
  drawSparkline(part("tokens", "spark").firstElementChild, state.tokenRate, performance.now(), RATE_SPAN_MS);
}

function drawAlerts() {
  if (state.status?.capabilities?.alerts === false) return draw("alerts", "idle", "–", "", "turned off in the configuration");
  if (!state.alertsKnown) return undefined;
  const alerts = [...state.alerts.values()];
  const firing = alerts.filter((alert) => alert.state === "firing");
  const pending = alerts.length - firing.length;
  const critical = firing.filter(({ labels }) => labels?.severity === "critical").length;
  const tone = critical > 0 ? "bad" : firing.length > 0 ? "warn" : "ok";
  const parts = [];
  if (critical > 0) parts.push(`${count(critical)} critical`);
  if (firing.length > critical) parts.push(`${count(firing.length - critical)} other`);
  if (pending > 0) parts.push(`${count(pending)} pending`);
  return draw("alerts", tone, count(firing.length), "", parts.join(", ") || "all quiet");
}
