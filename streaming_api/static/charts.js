// The six charts: what each shows, one time range for all, the line under the pointer, zoom and pause.

import { clock, count, measured, severityTone } from "./format.js";
import { byId, element, setText, setTone, svg } from "./dom.js";
import { makePlot, rowAt } from "./plot.js";
import { changed, noFigures, onChange, serverNow, state } from "./state.js";

const MINUTES = [5, 15, 60];
const FINISHED = ["stop", "length", "tool_calls"];
const STOPPED = ["cancelled", "abandoned"];
const FAILED = ["incomplete", "error", "content_filter", "other"];
const HEARTBEAT = "connections_websocket";

const sum = (prefix, names) => ({ sum: names.map((name) => prefix + name) });

/** What each chart shows: `lines` {label, of: a series or a sum of some, tone, area}; worst drawn last. */
const CHARTS = [
  { id: "tokens", title: "Tokens per second", unit: "rate", lines: [{ label: "tokens/s", of: "tokens_per_second", tone: "main", area: true }] },
  {
    id: "answers", title: "Answers in progress", unit: "count", options: { whole: true, least: 3 },
    lines: [{ label: "running", of: "answers_running", tone: "main", area: true }, { label: "queued", of: "answers_queued", tone: "warn" }],
  },
  {
    id: "first-token", title: "Time to first token", unit: "seconds", empty: "No answer began in this time",
    lines: [{ label: "p50", of: "first_token_p50_seconds", tone: "faint" }, { label: "p95", of: "first_token_p95_seconds", tone: "main" }],
  },
  {
    id: "outcomes", title: "Answers a minute", unit: "count", options: { whole: true, least: 3 },
    lines: [
      { label: "finished", of: sum("answers_", FINISHED), tone: "main", area: true },
      { label: "stopped", of: sum("answers_", STOPPED), tone: "warn" },
      { label: "failed", of: sum("answers_", FAILED), tone: "bad" },
    ],
  },
  {
    id: "connections", title: "Connections", unit: "count", options: { whole: true, least: 3 }, limits: true,
    lines: [
      { label: "SSE", of: "connections_sse", tone: "faint", limit: "limit_sse" },
      { label: "WebSocket", of: "connections_websocket", tone: "main", limit: "limit_websocket" },
    ],
  },
  {
    id: "delivery", title: "Delivery, 99 % within", unit: "seconds", empty: "Nothing was delivered in this time", options: { log: true, above: 1 }, threshold: 0.1,
    lines: [
      { label: "SSE", of: "delivery_p99_sse_seconds", tone: "faint" },
      { label: "WebSocket", of: "delivery_p99_websocket_seconds", tone: "main" },
    ],
  },
];

/** The window and what is under the pointer; `zoom` is [from, to] or null, `pausedAt` a time or null. */
export const view = { minutes: 5, zoom: null, pausedAt: null, hover: null, brushed: null };
const drawn = [];
let onView = () => {};

/** Wires the charts; remember(view) is called when the window is another one. */
export function startCharts(remember) {
  onView = remember;
  for (const chart of CHARTS) addChart(byId("charts"), chart);
  for (const minutes of MINUTES) byId(`range-${minutes}`).addEventListener("click", () => setRange(minutes));
  byId("pause").addEventListener("click", togglePause);
  byId("live").addEventListener("click", goLive);
  addEventListener("keydown", onKey);
  onChange(["history", "clock", "view"], drawAll);
}

/** One more chart, of a series that somebody starred: columns() gives {times, columns}. */
export function addChart(parent, chart) {
  const plot = makePlot(chart);
  const readouts = chart.lines.map((line) => {
    const value = element("span", "value", "–");
    return { value, limit: element("span", "of"), node: element("span", `readout ${line.tone}`, swatch(), `${line.label} `), line };
  });
  for (const { node, value, limit } of readouts) node.append(value, limit);
  const title = element("h2", "", chart.title);
  const legend = element("p", "legend", ...[...readouts].reverse().map(({ node }) => node));
  const card = element("figure", "chart", element("figcaption", "", title, legend), plot.node);
  card.tabIndex = 0;
  card.id = `chart-${chart.id}`;
  card.setAttribute("role", "group");
  const entry = { chart, plot, readouts, card };
  plot.node.addEventListener("resized", () => changed("view"));
  followPointer(plot);
  card.addEventListener("keydown", (event) => moveHover(event));
  card.addEventListener("blur", () => setHover(null));
  drawn.push(entry);
  parent.append(card);
  return () => {
    drawn.splice(drawn.indexOf(entry), 1);
    card.remove();
  };
}

function swatch() {
  const node = svg("svg", { class: "swatch", viewBox: "0 0 14 8", "aria-hidden": "true" });
  node.append(svg("path", { d: "M1 4h12" }));
  return node;
}

// The window

/** [from, to] in seconds of the server's clock. */
export function shownWindow() {
  if (view.zoom) return view.zoom;
  const to = view.pausedAt ?? serverNow() / 1000;
  return [to - view.minutes * 60, to];
}

/** Shows so many minutes up to now. */
function setRange(minutes) {
  view.minutes = minutes;
  view.zoom = null;
  viewChanged();
}

function togglePause() {
  if (document.body.dataset.view === "wall") return;
  if (view.pausedAt === null && !view.zoom) {
    view.pausedAt = serverNow() / 1000;
    viewChanged();
  } else goLive();
}

function goLive() {
  view.zoom = null;
  view.pausedAt = null;
  viewChanged();
}

function viewChanged() {
  onView(view);
  changed("view");
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest?.("input, textarea, select, button, summary, a, [contenteditable]");
  if (event.key === " " && !typing) {
    event.preventDefault();
    togglePause();
  } else if (event.key === "Escape" && !typing && (view.zoom || view.pausedAt !== null)) goLive();
}

// The pointer: one line across all charts; dragging zooms all of them

function followPointer(plot) {
  let from = null;
  const timeAt = (event) => {
    const [start, end] = shownWindow();
    return start + plot.shareAt(event.clientX) * (end - start);
  };
  plot.node.addEventListener("pointermove", (event) => {
    setHover(timeAt(event));
    if (from !== null) view.brushed = [from, view.hover];
  });
  plot.node.addEventListener("pointerleave", () => from === null && setHover(null));
  plot.node.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.pointerType === "touch") return;
    plot.node.setPointerCapture(event.pointerId);
    from = timeAt(event);
  });
  plot.node.addEventListener("pointerup", (event) => {
    if (from === null) return;
    zoomTo([from, timeAt(event)]);
    from = null;
    view.brushed = null;
    changed("view");
  });
  plot.node.addEventListener("pointercancel", () => {
    from = null;
    view.brushed = null;
  });
}

function zoomTo(window) {
  const [from, to] = window.slice().sort((left, right) => left - right);
  if (to - from < 3) return;
  view.zoom = [Math.round(from), Math.round(to)];
  viewChanged();
}

function setHover(time) {
  view.hover = time;
  changed("view");
}

function moveHover(event) {
  const [from, to] = shownWindow();
  const step = Math.max(1, Math.round((to - from) / 60));
  const now = view.hover ?? to;
  const moves = { ArrowLeft: now - step, ArrowRight: now + step, Home: from, End: to };
  if (!(event.key in moves)) return;
  event.preventDefault();
  setHover(Math.max(from, Math.min(to, moves[event.key])));
}

// Drawing

function columnOf(of, length) {
  const { series } = state.history;
  if (typeof of === "string") return series.get(of) ?? new Array(length).fill(null);
  const parts = of.sum.map((name) => series.get(name)).filter(Boolean);
  return Array.from({ length }, (_, row) => {
    let total = null;
    for (const part of parts) if (part[row] !== null && part[row] !== undefined) total = (total ?? 0) + part[row];
    return total;
  });
}

const MARK_TONES = { started: "idle", draining: "warn", down: "bad" };
const VERBS = { started: "started", draining: "is stopping", down: "is down", firing: "fires" };
const RANK = ["bad", "warn", "idle"];

/** The marks of the history as charts show them, one a second: what is worst. Pure. */
export function marksOf(marks) {
  const found = new Map();
  for (const { time, event, name, severity } of marks) {
    if (!(event in VERBS)) continue;
    const tone = event === "firing" ? severityTone(severity) : MARK_TONES[event];
    const before = found.get(time);
    const text = `${name} ${VERBS[event]}`;
    if (!before) found.set(time, { time, tone, text, event });
    else {
      before.text += `, ${text}`;
      if (RANK.indexOf(tone) < RANK.indexOf(before.tone)) before.tone = tone;
    }
  }
  return [...found.values()];
}

function drawAll() {
  if (document.hidden && document.body.dataset.view !== "wall") return;
  const [from, to] = shownWindow();
  const marks = marksOf(state.history.marks);
  const { times, series } = state.history;
  const heartbeat = series.get(HEARTBEAT);
  const known = heartbeat ? (row) => heartbeat[row] !== null && heartbeat[row] !== undefined : () => false;
  for (const entry of drawn) {
    const own = entry.chart.points?.();
    const columns = own ? own.columns : entry.chart.lines.map(({ of }) => columnOf(of, times.length));
    const frame = { times: own?.times ?? times, columns, known: own ? () => true : known };
    const limit = entry.chart.limits ? limitOf(entry, columns) : null;
    entry.plot.draw({ ...frame, from, to, marks, hover: view.hover, brushed: view.brushed, dashed: limit });
    drawReadouts(entry, frame);
  }
  drawControls(from, to, marks);
}

/** The limit that is nearest to being reached, once a third of it is taken: before, its line would be all there is. */
function limitOf(entry, columns) {
  let nearest = null;
  entry.chart.lines.forEach(({ limit }, index) => {
    const most = state.history.series.get(limit)?.at(-1);
    const used = columns[index].at(-1);
    if (most && used > most / 3 && (nearest === null || most < nearest)) nearest = most;
  });
  return nearest;
}

function drawReadouts({ chart, readouts, card }, { times, columns }) {
  const row = view.hover === null ? times.length - 1 : rowAt(times, view.hover);
  const said = [];
  readouts.forEach(({ value, limit, line, node }, index) => {
    const at = row < 0 ? null : columns[index][row];
    const text = measured(at, chart.unit);
    setText(value, text);
    const most = line.limit ? state.history.series.get(line.limit)?.at(-1) : null;
    setText(limit, most ? ` of ${count(most)}` : "");
    const over = (chart.threshold && at > chart.threshold) || (most && at >= most * 0.9);
    setTone(node, over ? "bad" : line.tone === "bad" || line.tone === "warn" ? (at > 0 ? line.tone : "") : "");
    said.push(`${line.label} ${text}${limit.textContent}`);
  });
  const label = `${chart.title}: ${said.join(", ")}`;
  if (card.ariaLabel !== label) card.ariaLabel = label;
}

function drawControls(from, to, marks) {
  for (const minutes of MINUTES) {
    const chosen = !view.zoom && view.minutes === minutes;
    byId(`range-${minutes}`).setAttribute("aria-pressed", String(chosen));
  }
  const stopped = view.zoom !== null || view.pausedAt !== null;
  swap(...(stopped ? ["pause", "live"] : ["live", "pause"]));
  byId("charts").classList.toggle("paused", stopped);
  document.body.classList.toggle("without-figures", noFigures());
  const what = noFigures() ? "Metrics are turned off in the configuration: there is nothing to draw." : view.zoom ? `${clock(from)} to ${clock(to)}` : view.pausedAt !== null ? `Paused at ${clock(to)}` : "";
  setText(byId("window"), view.hover === null ? what : [clock(view.hover), ...near(marks, view.hover, (to - from) / 100)].join(" · "));
}

/** Shows one button in place of another, which had the focus perhaps. */
function swap(gone, shown) {
  if (byId(gone).hidden) return;
  const focused = document.activeElement === byId(gone);
  byId(shown).hidden = false;
  byId(gone).hidden = true;
  if (focused) byId(shown).focus();
}

const near = (marks, time, reach) => marks.filter((mark) => Math.abs(mark.time - time) <= reach).map(({ text }) => text).slice(0, 3);
