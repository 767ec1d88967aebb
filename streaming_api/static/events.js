// The diary: what happened, newest first, in sentences. What this page itself missed stands in it, too.

import { clock, plural, severityTone, title } from "./format.js";
import { arrange, breakable, byId, element, setText } from "./dom.js";
import { onChange, state } from "./state.js";

const MOST_SHOWN = 80;
const KINDS = {
  firing: ["", "fires"],
  resolved: ["ok", "is resolved"],
  down: ["bad", "is down"],
  up: ["ok", "is up"],
  loading: ["idle", "is loading"],
  absent: ["idle", "is absent"],
  draining: ["warn", "is stopping"],
  started: ["idle", "started"],
  lost: ["warn", "lost its connection"],
  back: ["ok", "is connected again"],
};

/** {tone, text, detail} of an event of the diary. Pure. */
export function sentenceOf({ kind, name, severity, detail, alerts = [] }) {
  const [tone, verb] = KINDS[kind] ?? ["idle", `is ${kind}`];
  const who = ["firing", "resolved"].includes(kind) ? name : title(name);
  return { tone: kind === "firing" ? severityTone(severity) : tone, who, verb, detail: alerts.length > 1 ? plural(alerts.length, "alert") : detail ?? "" };
}

/** Wires the diary. */
export function startEvents() {
  onChange(["events", "history"], draw);
}

const rows = new WeakMap();

/** Starts of the server are marks of the history; the rest are events. */
function entries() {
  const started = state.history.marks.filter(({ event }) => event === "started").map((mark) => starts.get(keyOf(mark)) ?? startOf(mark));
  return [...state.events, ...started].sort((left, right) => right.time - left.time).slice(0, MOST_SHOWN);
}

const starts = new Map();
const keyOf = ({ time, name }) => `${time} ${name}`;

function startOf(mark) {
  const made = { time: mark.time * 1000, kind: "started", name: mark.name, detail: "" };
  starts.set(keyOf(mark), made);
  return made;
}

function draw() {
  const events = entries();
  byId("events-empty").hidden = events.length > 0;
  setText(byId("events-empty"), "Nothing has happened in the last hour.");
  arrange(byId("events"), events.map(rowOf));
}

function rowOf(event) {
  if (!rows.has(event)) {
    const { tone, who, verb, detail } = sentenceOf(event);
    const time = element("time", "", clock(event.time / 1000));
    time.dateTime = new Date(event.time).toISOString();
    const said = element("p", "", breakable("strong", "", who), ` ${verb}`);
    if (detail) said.append(element("span", "detail", ` ${detail}`));
    said.dir = "auto";
    const node = element("li", "event", time, said);
    node.dataset.tone = tone;
    rows.set(event, node);
  }
  return rows.get(event);
}
