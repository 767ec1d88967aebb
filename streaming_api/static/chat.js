// The chat's behaviour: asking, stopping, resuming after a reconnect or a reload, and when asking is possible.

import { getJson, remove } from "./api.js";
import { asMessages, loadTurns, newTurn, saveTurns, takeMessage } from "./conversation.js";
import { changed, state } from "./store.js";

const SAVE_EVERY_MS = 1000;
const RETRY_MS = 1500;

export class Chat {
  #send;
  #savedAt = 0;
  turns = loadTurns();
  models = [];
  /** Why models are unknown, or "". */
  modelsProblem = "";

  /** send(command) returns false when there is no connection. */
  constructor(send) {
    this.#send = send;
    addEventListener("pagehide", () => saveTurns(this.turns));
  }

  /** The turn that is not ended yet, or undefined. */
  get running() {
    const last = this.turns.at(-1);
    return last && last.phase !== "ended" ? last : undefined;
  }

  /** Why nothing can be asked now: {tone, text}, or null when it can. */
  get obstacle() {
    const { status, connection } = state;
    if (connection.phase !== "open") return { tone: "idle", text: "Not connected." };
    if (status?.capabilities?.chat === false) {
      return { tone: "idle", text: "Chat is turned off in this server's configuration (streaming.chat_enabled)." };
    }
    const model = status?.model;
    if (!model || model.state === "ready") return null;
    const why = model.reason ? `: ${model.reason}` : ".";
    if (model.state === "loading") return { tone: "warn", text: `The model is loading${why}` };
    if (model.state === "absent") return { tone: "idle", text: `There is no model${why}` };
    return { tone: "bad", text: `The model failed to start${why}` };
  }

  /** Asks; returns a sentence when the question cannot be sent. */
  ask(question, model) {
    const turn = newTurn(question, model);
    const command = this.#startCommand(turn, [...this.turns, turn]);
    const limit = state.status?.limits?.message_size_limit;
    if (limit && new Blob([JSON.stringify(command)]).size >= limit) {
      return "This conversation is larger than the server accepts. Start a new one.";
    }
    if (!this.#send(command)) return "Not connected. Try again when the connection is back.";
    this.turns.push(turn);
    this.#keep();
    return "";
  }

  #startCommand(turn, turns) {
    return {
      message_type: "chat_completion",
      action: "start",
      request_id: turn.id,
      model: turn.model,
      messages: asMessages(turns),
      stream: true,
    };
  }

  /** Stops the answer under way; without a connection, over HTTP. */
  async stop() {
    const turn = this.running;
    if (!turn) return;
    turn.stopWanted = true;
    changed("chat");
    if (this.#send({ message_type: "chat_completion", action: "cancel", request_id: turn.id })) return;
    try {
      await remove(`/streaming/chat/${turn.id}`);
    } catch {
      // The wish is kept in the turn, and is repeated when the connection is back.
    }
  }

  /** Forgets the conversation. */
  clear() {
    if (this.running) this.stop();
    this.turns = [];
    this.#keep();
  }

  /** Takes a chat_completion message. */
  receive(message) {
    const turn = this.turns.find(({ id }) => id === message.request_id);
    if (!turn) {
      if (message.data.error && !message.request_id) this.#complain(message.data.error);
      return;
    }
    if (!takeMessage(turn, message)) return;
    changed("chat");
    if (turn.phase === "ended" || performance.now() - this.#savedAt > SAVE_EVERY_MS) this.#keep();
  }

  #complain({ message, code }) {
    state.complaint = { message, code };
    changed("complaint");
  }

  /** A command was refused because there were too many: repeats what the answer under way needs. */
  commandsRefused() {
    setTimeout(() => this.reconnected(), RETRY_MS);
  }

  /** Continues the answer under way on a new connection. With nothing seen yet the start is repeated: it
   * attaches to the answer that has this request_id, and never starts a second one. */
  reconnected() {
    const turn = this.running;
    if (!turn) return;
    if (turn.sequence === 0) this.#send(this.#startCommand(turn, this.turns));
    else {
      this.#send({ message_type: "chat_completion", action: "resume", request_id: turn.id, after: turn.sequence });
    }
    if (turn.stopWanted) this.#send({ message_type: "chat_completion", action: "cancel", request_id: turn.id });
  }

  /** Reads GET /v1/models. */
  async readModels() {
    try {
      const list = await getJson("/v1/models");
      this.models = (list.data ?? []).map(({ id }) => String(id));
      this.modelsProblem = "";
    } catch (problem) {
      this.modelsProblem = problem.message;
    }
    changed("models");
  }

  #keep() {
    this.#savedAt = performance.now();
    saveTurns(this.turns);
    changed("chat");
  }
}
