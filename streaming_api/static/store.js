// What the page knows, and who is told when it changes: each part is drawn at most once per animation frame.

export const state = {
  /** GET /streaming/status, or null. */
  status: null,
  /** The server offers no WebSocket. */
  websocketOff: false,
  /** GET /streaming/connections, or null. */
  connections: null,
  /** GET /streaming/metrics, or null. */
  figures: null,
  /** Monotonic milliseconds at which each polled document last arrived. */
  polledAt: { connections: null, figures: null },
  /** Why the last poll failed, a sentence, or "". */
  pollProblem: "",
  /** Milliseconds to add to this browser's clock to get the server's. */
  clockOffset: 0,
  /** What connection.js last said about itself. */
  connection: { phase: "starting", reason: "", retryAt: 0, lostAt: null },
  /** Monotonic milliseconds at which the last metrics message arrived, or null. */
  metricsAt: null,
  /** Server time (milliseconds) of the newest metrics message. */
  metricsTime: 0,
  /** source -> series -> {value, points}. */
  metrics: new Map(),
  /** "source/fingerprint" -> ALERT. */
  alerts: new Map(),
  alertsKnown: false,
  /** name -> COMPONENT. */
  components: new Map(),
  componentsKnown: false,
  /** Recent tokens per second: [{time, value}]. */
  tokenRate: [],
  /** The last error of no command in particular: {message, code}, or null. */
  complaint: null,
};

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

/** Says that a part changed. */
export function changed(part) {
  dirty.add(part);
  frame ||= requestAnimationFrame(drawDirty);
}

function drawDirty() {
  frame = 0;
  const due = new Set([...dirty].flatMap((part) => [...(drawers.get(part) ?? [])]));
  dirty.clear();
  for (const draw of due) draw();
}

/** The server's clock, in milliseconds since 1970. */
export const serverNow = () => Date.now() + state.clockOffset;

/** Seconds since an RFC 3339 time of the server, or null. */
export function secondsSince(timestamp) {
  const parsed = Date.parse(timestamp);
  return Number.isNaN(parsed) ? null : Math.max(0, (serverNow() - parsed) / 1000);
}

/** Seconds since the oldest of the polled figures arrived, or null before the first. */
export function dataAge() {
  const { connections, figures } = state.polledAt;
  if (connections === null || figures === null) return null;
  return (performance.now() - Math.min(connections, figures)) / 1000;
}
