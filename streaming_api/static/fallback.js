// What stands in for a WebSocket: event streams read with fetch, and where those do not pass either, polling.

import { ask } from "./requests.js";
import { state } from "./state.js";

const POLL_MS = 2000;
const EVENTS_POLL_MS = 1000;

/** Why no socket opens, as a sentence; throws when the server does not answer at all. */
export async function whyNoSocket() {
  let counts;
  try {
    counts = await ask("GET", "streaming/connections?rows=0");
  } catch (problem) {
    if (problem.status !== 403) throw problem;
  }
  const socket = counts?.websocket;
  if (socket && socket.open >= socket.limit) return `All ${socket.limit} WebSocket connections of the server are taken.`;
  try {
    await ask("GET", "streaming/websocket");
  } catch (problem) {
    if (problem.code === "websocket_disabled") return "WebSockets are switched off on this server.";
    if (problem.status === 426) return "A proxy between here and the server does not let WebSockets pass.";
    if (problem.status !== 0) return problem.message;
  }
  return "No WebSocket opens, and the server does not say why.";
}

/**
 * Messages without a socket. Mode `events`: alerts and components by one event stream, for a browser gives a host six
 * connections over HTTP/1.1 and every tab needs its share. Mode `polling`: they are asked for, too. Figures always are.
 */
export class StandIn {
  #connection;
  #give;
  #wanted;
  #closing = new AbortController();
  #streams = new Map();
  mode = "events";

  constructor(connection, give, wanted) {
    this.#connection = connection;
    this.#give = give;
    this.#wanted = wanted;
  }

  /** Opens what passes; throws when nothing does. */
  static async open(connection, give, wanted) {
    const made = new StandIn(connection, give, wanted);
    const topics = ["alerts", "status"].filter((topic) => wanted.has(topic));
    try {
      if (topics.length > 0) await made.#stream(`streaming/sse?topics=${topics}`, connection.cursorFor(topics), "topics");
      if (wanted.has("metrics")) made.watch("metrics", true);
    } catch {
      made.close();
      made.#closing = new AbortController();
      made.mode = "polling";
    }
    await made.#poll();
    made.#keepPolling();
    return made;
  }

  close() {
    this.#closing.abort();
    this.#streams.clear();
  }

  watch(topic, wanted) {
    this.#streams.get(topic)?.abort();
    this.#streams.delete(topic);
    if (wanted && this.mode === "events") this.#stream(`streaming/sse/${topic}`, "", topic).catch(() => {});
  }

  // Answers: the same commands, over HTTP

  send(command) {
    const { action, request_id: id } = command;
    if (command.message_type !== "chat_completion") return true;
    if (action === "cancel") ask("DELETE", `streaming/chat/${id}`).catch(() => {});
    else if (action === "resume") this.#answer(id, `streaming/sse/chat/${id}?after=${command.after}`);
    else this.#answer(id, "streaming/sse/chat", command);
    return true;
  }

  async #answer(id, path, command) {
    try {
      await this.#stream(path, "", `chat/${id}`, command && { method: "POST", body: JSON.stringify(strip(command)) });
    } catch (problem) {
      const error = { message: problem.message, code: problem.code, type: "", retry_after: problem.retryAfter };
      this.#give.message({ message_type: "chat_completion", request_id: id, data: { error } });
    }
  }

  async #stream(path, cursor, name, options = {}) {
    const stop = new AbortController();
    this.#streams.set(name, stop);
    const response = await ask(options.method ?? "GET", path, {
      body: options.body,
      headers: { Accept: "text/event-stream", ...(cursor && { "Last-Event-ID": cursor }) },
      signal: AbortSignal.any([stop.signal, this.#closing.signal]),
      stream: true,
    });
    if (response.status !== 204) this.#read(response.body.pipeThrough(new TextDecoderStream()).getReader(), name, stop);
  }

  async #read(reader, name, stop) {
    let text = "";
    try {
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        const events = (text + value).replaceAll("\r\n", "\n").split("\n\n");
        text = events.pop();
        for (const event of events) this.#take(event);
      }
    } catch {
      // Its end is reported below, however it came.
    }
    const chat = name.startsWith("chat/");
    if (!stop.signal.aborted && !this.#closing.signal.aborted && !chat) this.#connection.failed("An event stream of the server has ended.");
  }

  #take(event) {
    const lines = event.split("\n").filter((line) => line.startsWith("data: "));
    if (lines.length > 0) this.#connection.receive(lines.map((line) => line.slice(6)).join("\n"));
  }

  // What is asked for

  async #keepPolling() {
    const { signal } = this.#closing;
    while (!signal.aborted) {
      await new Promise((resolve) => setTimeout(resolve, this.mode === "events" ? EVENTS_POLL_MS : POLL_MS));
      if (signal.aborted) return;
      try {
        await this.#poll();
      } catch (problem) {
        if (!signal.aborted) this.#connection.failed(problem.message);
        return;
      }
    }
  }

  async #poll() {
    if (this.#wanted.size === 0) return;
    const topics = ["alerts", "status"].filter((topic) => this.#wanted.has(topic));
    const last = state.history.times.at(-1);
    const figures = this.#wanted.has("history");
    if (this.mode === "polling" || (figures && !last)) {
      const asked = figures && !last ? [...topics, "history"] : topics;
      const { status, messages } = await ask("GET", `streaming/snapshot?topics=${asked}`);
      state.status = status;
      for (const message of messages) this.#connection.receive(JSON.stringify(message));
    }
    if (figures && last) await this.#samples(last);
    else if (!figures && this.mode === "events") await ask("GET", "streaming/status");
    this.#connection.heard();
  }

  async #samples(last) {
    const { times, series, marks } = await ask("GET", `streaming/history?since=${last}`);
    times.forEach((time, row) => {
      const values = Object.fromEntries(Object.entries(series).map(([name, column]) => [name, column[row]]));
      const gap = values.connections_websocket === null;
      if (!gap) this.#history({ event: "sampled", time, gap: 0, values }, time);
    });
    for (const mark of marks) if (mark.time > last) this.#history({ event: "mark", mark }, mark.time);
  }

  #history(data, time) {
    this.#give.message({ message_type: "metrics_update", stream_id: "history", timestamp: new Date(time * 1000).toISOString(), data });
  }
}

const strip = ({ message_type: type, action, ...fields }) => fields;
