// The way to the server: a WebSocket; where that does not pass, event streams; where those do not, asking again and again.

import { beside } from "./dom.js";

const FIRST_DELAY_MS = 500;
const LONGEST_DELAY_MS = 15000;
const HANDSHAKE_MS = 8000;
const STEADY_MS = 5000;
const TICK_MS = 1000;
const SILENT_TICKS = 4;
const DEAD_TICKS = 6;
const SLOW_FACTOR = 3;

const REASONS = {
  1000: "The connection was idle and the server closed it.",
  1001: "The server is going away.",
  1008: "The server does not allow this connection.",
  1009: "A message was too big for the server.",
  1011: "The server had an internal error.",
  1012: "The server is restarting.",
  1013: "The server is at a limit, or this page was too slow.",
};

/** The topics of a subscription, each with what a command calls it. */
const COMMANDS = {
  history: { message_type: "metrics_update", topic: "history" },
  alerts: { message_type: "alert" },
  status: { message_type: "status_update" },
  metrics: { message_type: "metrics_update" },
};

/** Of several cursors the one from which none of them misses anything; none, if one is missing. Pure. */
export function oldest(cursors) {
  const numbers = cursors.map((cursor) => Number(cursor?.split(":")[1]));
  if (numbers.some(Number.isNaN) || new Set(cursors.map((cursor) => cursor.split(":")[0])).size > 1) return "";
  return cursors[numbers.indexOf(Math.min(...numbers))];
}

/**
 * `prepare()` resolves to the topics to watch, {name: cursor or ""}; when it throws, `final` on the error means: do not try
 * again by oneself. `fallback` makes what stands in for a socket that does not pass.
 */
export class Connection {
  #give;
  #socket = null;
  #standIn = null;
  #cursors = new Map();
  #wanted = new Set();
  #failures = 0;
  #retryTimer = 0;
  #steadyTimer = 0;
  #attempt = 0;
  #quietTicks = 0;
  #sampled = false;
  #opened = false;

  constructor(give) {
    this.#give = give;
    setInterval(() => this.#listenForSilence(), TICK_MS);
  }

  get open() {
    return this.#socket?.readyState === WebSocket.OPEN || this.#standIn !== null;
  }

  get mode() {
    return this.#standIn?.mode ?? "socket";
  }

  /** Opens now, whatever the back-off says. */
  connect() {
    clearTimeout(this.#retryTimer);
    this.#drop();
    this.#try(++this.#attempt);
  }

  /** Sends a command; false when there is no connection. */
  send(command) {
    if (this.#standIn) return this.#standIn.send(command);
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(command));
    return true;
  }

  /** Watches one more topic from now on, or no longer. */
  watch(topic, wanted = true) {
    if (wanted === this.#wanted.has(topic)) return;
    if (wanted) this.#wanted.add(topic);
    else this.#wanted.delete(topic);
    if (!wanted) this.#cursors.delete(topic);
    if (this.#standIn) this.#standIn.watch(topic, wanted);
    else if (this.open) this.#subscribe(topic, wanted ? "subscribe" : "unsubscribe");
  }

  /** The cursor with which one subscription to these topics goes on. */
  cursorFor(topics) {
    return oldest(topics.map((topic) => this.#cursors.get(topic)));
  }

  async #try(attempt) {
    this.#give.phase({ phase: "connecting", mode: this.mode, reason: "" });
    let cursors;
    try {
      cursors = await this.#give.prepare();
    } catch (problem) {
      if (attempt !== this.#attempt) return;
      if (problem.final) this.#give.phase({ phase: "closed", mode: "socket", reason: problem.message });
      else this.#retryLater(problem.message);
      return;
    }
    if (attempt !== this.#attempt) return;
    for (const [topic, cursor] of Object.entries(cursors)) {
      this.#wanted.add(topic);
      if (cursor && !this.#cursors.has(topic)) this.#cursors.set(topic, cursor);
    }
    if (this.#give.socketOff()) this.#fallBack(attempt, "WebSockets are switched off on this server.");
    else this.#openSocket(attempt);
  }

  #openSocket(attempt) {
    const address = beside("streaming/websocket").replace(/^http/, "ws");
    const socket = new WebSocket(address, this.#give.protocols());
    this.#socket = socket;
    this.#opened = false;
    const impatience = setTimeout(() => this.#lost("The server did not answer in time."), HANDSHAKE_MS);
    socket.onopen = () => {
      clearTimeout(impatience);
      this.#begin();
    };
    socket.onmessage = (event) => this.receive(event.data);
    socket.onclose = (event) => {
      clearTimeout(impatience);
      if (this.#opened) this.#lost(event.reason ? `The server says: ${event.reason}.` : REASONS[event.code] || "The connection to the server was lost.");
      else this.#fallBack(attempt);
    };
  }

  #begin() {
    this.#opened = true;
    this.#quietTicks = 0;
    this.#steadyTimer = setTimeout(() => (this.#failures = 0), STEADY_MS);
    for (const topic of this.#wanted) this.#subscribe(topic);
    this.#give.phase({ phase: "open", mode: "socket", reason: "" });
  }

  #subscribe(topic, action = "subscribe") {
    const cursor = this.#cursors.get(topic);
    this.send({ ...COMMANDS[topic], action, ...(action === "subscribe" && cursor && { cursor }) });
  }

  /** Takes the JSON of a message, from whatever it came by. */
  receive(frame) {
    this.#quietTicks = 0;
    let message;
    try {
      message = JSON.parse(frame);
    } catch {
      return;
    }
    const topic = message.stream_id;
    if (topic === "history" && message.data?.event === "sampled") this.#sampled = true;
    if (message.data?.event === "gap" && this.#wanted.has(topic)) this.#bridge(topic, message.data);
    else if (message.cursor && this.#wanted.has(topic)) this.#cursors.set(topic, message.cursor);
    this.#give.message(message);
  }

  // Changes are missing. A snapshot follows by itself unless they were evicted from a topic that keeps a
  // history; then what follows is incomplete, and only a new subscription gives the whole state.
  #bridge(topic, gap) {
    this.#cursors.delete(topic);
    if (gap.reason !== "evicted" || topic === "metrics" || topic === "history" || this.#standIn) return;
    this.#subscribe(topic, "unsubscribe");
    this.#subscribe(topic);
  }

  // The socket never opened. Why, only an ordinary request can say; whenever that is answered, so are we.
  async #fallBack(attempt, known = "") {
    this.#drop();
    let why;
    let StandIn;
    let whyNoSocket;
    try {
      ({ StandIn, whyNoSocket } = await import("./fallback.js"));
    } catch {
      if (attempt === this.#attempt) this.#retryLater("The server cannot be reached.");
      return;
    }
    try {
      why = known || (await whyNoSocket());
      if (attempt !== this.#attempt) return;
      this.#standIn = await StandIn.open(this, this.#give, this.#wanted);
    } catch (problem) {
      if (attempt === this.#attempt) this.#retryLater(problem.message);
      return;
    }
    if (attempt !== this.#attempt) {
      this.#standIn?.close();
      this.#standIn = null;
      return;
    }
    this.#quietTicks = 0;
    this.#give.phase({ phase: "open", mode: this.#standIn.mode, reason: why });
    if (!known) this.#retryTimer = setTimeout(() => this.#trySocketAgain(), 30000);
  }

  #trySocketAgain() {
    const probe = new WebSocket(beside("streaming/websocket").replace(/^http/, "ws"), this.#give.protocols());
    probe.onopen = () => {
      probe.close();
      if (this.#standIn) this.connect();
    };
    probe.onclose = () => (this.#retryTimer = setTimeout(() => this.#standIn && this.#trySocketAgain(), 30000));
  }

  /** Something has been heard that is no message. */
  heard() {
    this.#quietTicks = 0;
  }

  /** What stands in for the socket has failed. */
  failed(reason) {
    this.#lost(reason);
  }

  #lost(reason) {
    this.#drop();
    this.#retryLater(reason);
  }

  #drop() {
    clearTimeout(this.#steadyTimer);
    clearTimeout(this.#retryTimer);
    this.#standIn?.close();
    this.#standIn = null;
    const socket = this.#socket;
    this.#socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  // Exponential, and jittered so that a thousand pages do not come back at the same instant.
  #retryLater(reason) {
    const ceiling = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** this.#failures);
    const delay = ceiling * (0.5 + Math.random() / 2);
    this.#failures += 1;
    this.#retryTimer = setTimeout(() => this.connect(), delay);
    this.#give.phase({ phase: "waiting", mode: "socket", reason, retryAt: performance.now() + delay });
  }

  // Figures come each second, so silence means that the connection is gone; a page without them asks something harmless.
  // Ticks are counted instead of time, because a page that slept has waiting messages to read first.
  #listenForSilence() {
    if (!this.open || this.#wanted.size === 0) return;
    const patience = this.#sampled ? 1 : SLOW_FACTOR;
    this.#quietTicks += 1;
    if (this.#quietTicks === SILENT_TICKS * patience && this.#socket) this.#subscribe([...this.#wanted].at(-1));
    if (this.#quietTicks >= DEAD_TICKS * patience) this.#lost("The server has gone silent.");
  }
}
