// The one WebSocket: opening, back-off, subscriptions and their cursors, and noticing that it went silent.

const PATH = "/streaming/websocket";
const FIRST_DELAY_MS = 500;
const LONGEST_DELAY_MS = 15000;
const HANDSHAKE_MS = 8000;
const SETTLED_MS = 5000;
const TICK_MS = 1000;
const SILENT_TICKS = 10;
const DEAD_TICKS = 15;

const REASONS = {
  1000: "The connection was idle and the server closed it.",
  1001: "The server is going away.",
  1008: "The server does not allow this connection.",
  1009: "A message was too big for the server.",
  1011: "The server had an internal error.",
  1012: "The server is restarting.",
  1013: "The server is at a limit, or this page was too slow.",
};

/**
 * prepare() asks the server what it offers and returns the message types to subscribe to; when it throws,
 * `final` on the error means: do not try again by yourself.
 */
export class Connection {
  #prepare;
  #protocols;
  #onMessage;
  #onPhase;
  #socket = null;
  #cursors = new Map();
  #topics = [];
  #failures = 0;
  #retryTimer = 0;
  #settleTimer = 0;
  #attempt = 0;
  #quietTicks = 0;

  constructor({ prepare, protocols, onMessage, onPhase }) {
    this.#prepare = prepare;
    this.#protocols = protocols;
    this.#onMessage = onMessage;
    this.#onPhase = onPhase;
    setInterval(() => this.#listenForSilence(), TICK_MS);
  }

  get open() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  /** Opens now, whatever the back-off says. */
  connect() {
    clearTimeout(this.#retryTimer);
    this.#drop();
    this.#try(++this.#attempt);
  }

  /** Sends a command; false when there is no connection. */
  send(command) {
    if (!this.open) return false;
    this.#socket.send(JSON.stringify(command));
    return true;
  }

  async #try(attempt) {
    this.#onPhase({ phase: "connecting", reason: "" });
    let topics;
    try {
      topics = await this.#prepare();
    } catch (problem) {
      if (attempt !== this.#attempt) return;
      if (problem.final) this.#onPhase({ phase: "closed", reason: problem.message });
      else this.#retryLater(problem.message);
      return;
    }
    if (attempt === this.#attempt) this.#openSocket(topics);
  }

  #openSocket(topics) {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}${PATH}`, this.#protocols());
    this.#socket = socket;
    this.#topics = topics;
    const impatience = setTimeout(() => this.#lost("The server did not answer in time."), HANDSHAKE_MS);
    socket.onopen = () => {
      clearTimeout(impatience);
      this.#opened();
    };
    socket.onmessage = (event) => this.#receive(event.data);
    socket.onclose = (event) => {
      clearTimeout(impatience);
      this.#lost(event.reason || REASONS[event.code] || "The connection to the server was lost.");
    };
  }

  #opened() {
    this.#quietTicks = 0;
    this.#settleTimer = setTimeout(() => (this.#failures = 0), SETTLED_MS);
    for (const topic of this.#topics) this.#subscribe(topic);
    this.#onPhase({ phase: "open", reason: "" });
  }

  #subscribe(topic) {
    const cursor = this.#cursors.get(topic);
    this.send({ message_type: topic, action: "subscribe", ...(cursor && { cursor }) });
  }

  #receive(frame) {
    this.#quietTicks = 0;
    let message;
    try {
      message = JSON.parse(frame);
    } catch {
      return;
    }
    const type = message.message_type;
    if (message.data?.event === "gap" && this.#topics.includes(type)) this.#bridge(type, message.data);
    else if (message.cursor && this.#topics.includes(type)) this.#cursors.set(type, message.cursor);
    this.#onMessage(message);
  }

  // Changes are missing. A snapshot follows by itself unless they were evicted from a topic that keeps a
  // history; then what follows is incomplete, and only a new subscription gives the whole state.
  #bridge(topic, gap) {
    this.#cursors.delete(topic);
    if (gap.reason !== "evicted" || topic === "metrics_update") return;
    this.send({ message_type: topic, action: "unsubscribe" });
    this.#subscribe(topic);
  }

  #lost(reason) {
    this.#drop();
    this.#retryLater(reason);
  }

  #drop() {
    clearTimeout(this.#settleTimer);
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
    this.#onPhase({ phase: "waiting", reason, retryAt: performance.now() + delay });
  }

  // A browser shows no pings, so after a silence something harmless is asked; no answer means it is gone.
  // Ticks are counted instead of time, because a page that slept has waiting messages to read first.
  #listenForSilence() {
    if (!this.open || this.#topics.length === 0) return;
    this.#quietTicks += 1;
    if (this.#quietTicks === SILENT_TICKS) this.#subscribe(this.#topics.at(-1));
    if (this.#quietTicks >= DEAD_TICKS) this.#lost("The connection went silent.");
  }
}
