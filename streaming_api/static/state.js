// What the page knows: messages folded into it, and who is notified when it changes. Knows no element.

const KEPT_SECONDS = 3600;
const MOST_EVENTS = 300;
const MOST_MARKS = 500;
const MOST_RESOLVED = 200;
const BURST_MS = 1000;
const HOUR_MS = 3_600_000;

export const state = {
  /** GET /streaming/status, or null. */
  status: null,
  /** What the connection last said about itself; `mode` is socket, events or polling. */
  connection: { phase: "starting", mode: "socket", reason: "", retryAt: 0, lostAt: null },
  /** Monotonic milliseconds at which the newest figures arrived, or null. */
  figuresAt: null,
  /** Milliseconds to add to this browser's clock to get the server's. */
  clockOffset: 0,
  history: { times: [], series: new Map(), marks: [] },
  /** fingerprint -> ALERT. */
  alerts: new Map(),
  alertsKnown: false,
  /** Alerts that the server does not show, as of the last snapshot. */
  alertsLeftOut: 0,
  /** Alerts that were resolved in the last hour, newest first. */
  resolved: [],
  /** name -> COMPONENT. */
  components: new Map(),
  componentsKnown: false,
  /** What happened, newest first: {time, kind, name, severity, detail, alerts: fingerprints}. */
  events: [],
  /** source -> series -> {value, points: [{time, value}]}. */
  metrics: new Map(),
  /** source -> monotonic milliseconds of its last change. */
  metricsAt: new Map(),
  /** The last error of no command in particular: {message, code}, or null. */
  complaint: null,
};

// Notifying whoever draws

const drawers = new Map();
const dirty = new Set();
let frame = 0;

/** Calls draw in the next animation frame after any of these parts changed. */
export function onChange(parts, draw) {
  for (const part of parts) {
    if (!drawers.has(part)) drawers.set(part, new Set());
    drawers.get(part).add(draw);
  }
}

/** Says that a part changed: each drawer is called at most once per animation frame. */
export function changed(part) {
  dirty.add(part);
  if (drawers.size > 0) frame ||= requestAnimationFrame(drawDirty);
}

/** Draws what is due now; the first time, before there is a frame. */
export function drawDirty() {
  frame = 0;
  const due = new Set([...dirty].flatMap((part) => [...(drawers.get(part) ?? [])]));
  dirty.clear();
  for (const draw of due) {
    try {
      draw();
    } catch (problem) {
      reportError(problem); // one part that fails must not keep the others from being drawn
    }
  }
}

// Time

/** The server's clock, in milliseconds since 1970. */
export const serverNow = () => Date.now() + state.clockOffset;

/** Seconds since an RFC 3339 time of the server, or null. */
export function secondsSince(timestamp) {
  const parsed = Date.parse(timestamp);
  return Number.isNaN(parsed) ? null : Math.max(0, (serverNow() - parsed) / 1000);
}

/** Seconds since figures last arrived, or null before the first. */
export const dataAge = () => (state.figuresAt === null || noFigures() ? null : (performance.now() - state.figuresAt) / 1000);

/** Whether this server keeps no figures at all. */
export const noFigures = () => state.status?.capabilities?.metrics === false;

// Folding messages: a snapshot replaces, a change changes

/** Takes the newest number of each topic's snapshot: what has a lower one is a replay, and only history. */
const shownUntil = new Map();

/** Takes one message of a topic. */
export function fold(message) {
  const { data, message_type: type, stream_id: stream, sequence_id: number } = message;
  if (data.event === "snapshot") shownUntil.set(stream, number);
  const replayed = number !== undefined && data.event !== "snapshot" && number <= (shownUntil.get(stream) ?? 0);
  if (stream === "history") foldHistory(data, message.timestamp);
  else if (type === "metrics_update") foldMetrics(data, Date.parse(message.timestamp));
  else if (type === "alert") foldAlerts(data, message.timestamp, replayed);
  else if (type === "status_update") foldComponents(data, message.timestamp, replayed);
}

function foldHistory(data, timestamp) {
  const { history } = state;
  if (data.event === "snapshot") replaceHistory(data);
  else if (data.event === "mark") addMark(data.mark);
  else if (data.event === "sampled") addSample(data);
  else return;
  if (data.event !== "mark") {
    state.figuresAt = performance.now();
    const offset = Date.parse(timestamp) - Date.now();
    if (Number.isFinite(offset)) state.clockOffset = offset;
  }
  const old = history.times.findIndex((time) => time >= (history.times.at(-1) ?? 0) - KEPT_SECONDS);
  if (old > 60) {
    history.times.splice(0, old);
    for (const values of history.series.values()) values.splice(0, old);
  }
  changed("history");
}

/** A snapshot: what this page has from before it (another process of the server) stays, behind a gap. */
function replaceHistory({ times, series, marks }) {
  const { history } = state;
  const first = times[0] ?? Infinity;
  const kept = history.times.filter((time) => time < first).length;
  const gap = kept > 0 && times.length > 0 && first - history.times[kept - 1] > 1;
  const before = gap ? [...history.times.slice(0, kept), first - 1] : history.times.slice(0, kept);
  const names = new Set([...history.series.keys(), ...Object.keys(series)]);
  const merged = new Map();
  for (const name of names) {
    const old = (history.series.get(name) ?? new Array(kept).fill(null)).slice(0, kept);
    if (gap) old.push(null);
    merged.set(name, [...old, ...(series[name] ?? new Array(times.length).fill(null))]);
  }
  current.clear();
  for (const [name, values] of Object.entries(series)) current.set(name, values.at(-1) ?? null);
  history.times = [...before, ...times];
  history.series = merged;
  const keyOf = ({ time, event, name }) => `${time} ${event} ${name}`;
  const listed = new Set(marks.map(keyOf));
  history.marks = [...history.marks.filter((mark) => !listed.has(keyOf(mark))), ...marks].slice(-MOST_MARKS);
}

// The values of the newest second: a sample names only what differs from it.
const current = new Map();

function addSample({ time, gap, values }) {
  const { times, series } = state.history;
  const last = times.at(-1);
  if (last !== undefined && time <= last) return;
  const missing = gap > 0 || (last !== undefined && time - last > 1.5);
  const length = times.length;
  if (missing && last !== undefined) times.push(time - 1);
  times.push(time);
  for (const name of Object.keys(values)) {
    if (!series.has(name)) series.set(name, new Array(length).fill(null));
  }
  for (const [name, column] of series) {
    if (missing && last !== undefined) column.push(null);
    if (name in values) current.set(name, values[name]);
    column.push(current.get(name) ?? null);
  }
}

function addMark(mark) {
  state.history.marks.push(mark);
  const since = mark.time - KEPT_SECONDS;
  state.history.marks = state.history.marks.filter(({ time }) => time >= since).slice(-MOST_MARKS);
}

function foldMetrics({ event, values = {}, removed = {}, infinite = {} }, time) {
  if (event !== "snapshot" && event !== "changed") return;
  if (event === "snapshot") {
    for (const [source, series] of state.metrics) {
      for (const name of series.keys()) if (!(name in (values[source] ?? {}))) series.delete(name);
    }
  }
  for (const [source, series] of Object.entries(values)) {
    if (!state.metrics.has(source)) state.metrics.set(source, new Map());
    const known = state.metrics.get(source);
    for (const [name, value] of Object.entries(series)) record(known, name, value ?? infinity(infinite[source]?.[name]), time);
    state.metricsAt.set(source, performance.now());
  }
  for (const [source, names] of Object.entries(removed)) {
    for (const name of names) state.metrics.get(source)?.delete(name);
  }
  changed("metrics");
}

const infinity = (word) => (word === "+Inf" ? Infinity : word === "-Inf" ? -Infinity : null);

function record(known, name, value, time) {
  const series = known.get(name);
  if (!series) known.set(name, { value, points: [{ time, value }] });
  else {
    series.value = value;
    series.points.push({ time, value });
    const since = time - (series.starred ? HOUR_MS : 120_000);
    while (series.points.length > 2 && series.points[1].time < since) series.points.shift();
  }
}

function foldAlerts({ event, alerts, alert, left_out: leftOut = {} }, timestamp, replayed) {
  if (event === "snapshot") {
    state.alertsLeftOut = Object.values(leftOut).reduce((sum, each) => sum + each, 0);
    state.alerts = new Map(alerts.map((each) => [each.fingerprint, each]));
    state.alertsKnown = true;
  } else if (["firing", "pending", "resolved"].includes(event)) {
    if (!replayed) keep(alert);
    if (event === "resolved") remember(alert);
    if (event !== "pending") reportAlert(event, alert, timestamp);
  } else return;
  changed("alerts");
}

function keep(alert) {
  if (alert.state === "resolved") state.alerts.delete(alert.fingerprint);
  else state.alerts.set(alert.fingerprint, alert);
}

function remember(alert) {
  state.resolved = state.resolved.filter(({ fingerprint }) => fingerprint !== alert.fingerprint);
  state.resolved.unshift(alert);
  state.resolved.length = Math.min(state.resolved.length, MOST_RESOLVED);
}

const reported = new Set();

function reportAlert(event, alert, timestamp) {
  const key = `${alert.fingerprint} ${event}`;
  if (event === "firing" && reported.has(key)) return; // its words changed, or another source reports it
  reported.delete(`${alert.fingerprint} ${event === "firing" ? "resolved" : "firing"}`);
  reported.add(key);
  const { labels = {}, annotations = {} } = alert;
  report({
    time: timestamp,
    kind: event,
    severity: labels.severity,
    name: labels.alertname || "Unnamed alert",
    detail: annotations.summary || annotations.description || "",
    alerts: [alert.fingerprint],
  });
}

function foldComponents({ event, components, component, status }, timestamp, replayed) {
  if (event === "snapshot") {
    state.components = new Map(Object.entries(components));
    state.componentsKnown = true;
  } else if (event === "changed") {
    const before = replayed ? replayedStates.get(component) : state.components.get(component)?.state;
    if (before !== status.state) {
      report({ time: timestamp, kind: status.state, name: component, detail: status.reason ?? "" });
    }
    if (replayed) replayedStates.set(component, status.state);
    else state.components.set(component, status);
  } else return;
  changed("components");
}

const replayedStates = new Map();

/** Puts an event into the diary; those of a replay find their place by their time, alerts of one name that come together are one. */
export function report(event) {
  const time = typeof event.time === "string" ? Date.parse(event.time) : event.time;
  const same = state.events.findIndex((each) => each.kind === event.kind && each.name === event.name && Math.abs(each.time - time) < (event.alerts ? BURST_MS : 1));
  if (same >= 0) {
    const alerts = new Set([...(state.events[same].alerts ?? []), ...(event.alerts ?? [])]);
    if (alerts.size > (state.events[same].alerts?.length ?? 0)) state.events[same] = { ...state.events[same], alerts: [...alerts] };
    changed("events");
    return;
  }
  const at = state.events.findIndex((each) => each.time <= time);
  state.events.splice(at < 0 ? state.events.length : at, 0, { ...event, time });
  state.events.length = Math.min(state.events.length, MOST_EVENTS);
  changed("events");
}

// What follows from it

/** The newest value of a series of the history, or null. */
export const newest = (name) => state.history.series.get(name)?.at(-1) ?? null;

/** The components that are not up, which an alert's or a value's source may be. */
export const isDown = (source) => ["down", "absent"].includes(state.components.get(source)?.state);

/** Whether nobody who is up reports this alert any more. */
export const isOld = ({ sources, source }) => (sources ?? [source]).every(isDown);

/** Alerts that count: they fire, nobody silenced them, and a source that is up says so. */
export const counting = () =>
  [...state.alerts.values()].filter((alert) => alert.state === "firing" && !alert.suppressed && !isOld(alert));
