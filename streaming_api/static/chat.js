// The chat's behaviour: asking, stopping, asking again, going on after a reconnect or a reload, and what is kept.

import { startChatView } from "./chat_view.js";
import { asMessages, newTurn, takeMessage } from "./conversation.js";
import { Conversations, newConversation, titleOf } from "./conversations.js";
import { ask, readStatus } from "./requests.js";
import { changed, onChange, state } from "./state.js";
import { keepIn, recall } from "./storage.js";

const SAVE_EVERY_MS = 1000;
const RETRY_MS = 1500;
const CURRENT = "streaming-api.conversation";
const PARAMETERS = ["temperature", "top_p", "max_tokens"];

/** Builds the chat; `send` is false when there is no connection, `open` says whether there is one. */
export function startChat(send, open) {
  const chat = new Chat(send, open);
  const view = startChatView(chat);
  onChange(["connection"], () => changed("chat"));
  chat.begin();
  return {
    receive: (message) => chat.receive(message),
    connected: () => chat.connected(),
    commandsRefused: () => chat.commandsRefused(),
    statusChanged: () => chat.statusChanged(),
    openAnswer: (id) => chat.openAnswer(id),
    shown: () => view.shown(),
  };
}

class Chat {
  #send;
  #open;
  #store = new Conversations();
  #saveTimer = 0;
  #began;
  conversation = newConversation();
  models = [];
  /** Why models are unknown, or "". */
  modelsProblem = "";
  /** Monotonic milliseconds before which asking again makes no sense; 0: now. */
  waitUntil = 0;

  constructor(send, open) {
    this.#send = send;
    this.#open = open;
    addEventListener("pagehide", () => this.#save());
  }

  get turns() {
    return this.conversation.turns;
  }

  get settings() {
    return this.conversation.settings;
  }

  /** Why conversations are not kept, or "". */
  get storeProblem() {
    return this.#store.problem;
  }

  /** The turn that is not ended yet, or undefined. */
  get running() {
    const last = this.turns.at(-1);
    return last && last.phase !== "ended" ? last : undefined;
  }

  /** Why nothing can be asked now: {tone, text}, or null when it can. */
  get obstacle() {
    const { status } = state;
    if (status?.scopes && !status.scopes.includes("chat")) return { tone: "idle", text: "This key may watch, and not chat. Ask the operator for one with the scope chat.", final: true };
    if (status?.capabilities?.chat === false) return { tone: "idle", text: "Chat is turned off in this server's configuration (streaming.chat_enabled).", final: true };
    if (!this.#open()) return { tone: "idle", text: "Not connected." };
    const wait = Math.ceil((this.waitUntil - performance.now()) / 1000);
    if (wait > 0) return { tone: "warn", text: `The server asks to wait: try again in ${wait} s.` };
    const model = status?.model;
    if (!model || model.state === "ready") return null;
    const why = model.reason ? `: ${model.reason}` : ".";
    if (model.state === "loading") return { tone: "warn", text: `The model is loading${why}` };
    if (model.state === "absent") return { tone: "idle", text: `There is no model${why}` };
    return { tone: "bad", text: `The model failed to start${why}` };
  }

  // Beginning, and going on

  /** Opens what this tab showed last, and goes on with it. */
  begin() {
    this.#began = this.#restore();
    return this.#began;
  }

  async #restore() {
    await this.#store.open();
    const known = await this.#store.get(recall(sessionStorage, CURRENT));
    if (known && this.turns.length === 0) this.conversation = known;
    changed("chat");
    if (this.#open()) this.connected();
  }

  /** A connection is there: the answer under way goes on, and the server may offer something else than it did. */
  connected() {
    this.#goOn();
    this.statusChanged();
  }

  // With nothing seen yet the start is repeated: it attaches to the answer that has this request_id, and never
  // starts a second one.
  #goOn() {
    const turn = this.running;
    if (!turn) return;
    if (turn.sequence === 0 && !turn.elsewhere) this.#send(this.#startCommand(turn, this.turns));
    else this.#send({ message_type: "chat_completion", action: "resume", request_id: turn.id, after: turn.sequence });
    if (turn.stopWanted) this.#cancel(turn);
  }

  /** Shows an answer that was asked for on another device. */
  async openAnswer(id) {
    await this.#began;
    if (!/^[A-Za-z0-9_.-]{1,128}$/.test(id) || this.turns.some((turn) => turn.id === id)) return;
    this.#use(newConversation());
    this.turns.push({ ...newTurn("", ""), id, elsewhere: true });
    if (this.#open()) this.#goOn();
    changed("chat");
  }

  // Asking

  /** Asks; returns a sentence when the question cannot be sent. */
  ask(question, model) {
    const turn = newTurn(question, model);
    const command = this.#startCommand(turn, [...this.turns, turn]);
    const limit = state.status?.limits?.message_size_limit;
    if (limit && new Blob([JSON.stringify(command)]).size >= limit) {
      return "This conversation is larger than the server accepts. Start a new one.";
    }
    this.turns.push(turn);
    if (!this.#send(command)) {
      this.turns.pop();
      return "Not connected. Try again when the connection is back.";
    }
    this.keep();
    return "";
  }

  #startCommand(turn, turns) {
    const parameters = {};
    for (const name of PARAMETERS) {
      const value = this.settings[name];
      if (value !== undefined && value !== "" && Number.isFinite(Number(value))) parameters[name] = Number(value);
    }
    return {
      message_type: "chat_completion",
      action: "start",
      request_id: turn.id,
      ...(turn.model && { model: turn.model }),
      messages: asMessages(turns, this.settings.system ?? ""),
      stream: true,
      ...parameters,
    };
  }

  /** Takes a turn and what follows it away, to ask again; returns its question. */
  takeBack(turn) {
    const at = this.turns.indexOf(turn);
    if (at < 0) return "";
    if (this.running) this.stop();
    this.turns.splice(at);
    this.keep();
    return turn.question;
  }

  /** Stops the answer under way; without a connection, when it is back. */
  stop() {
    const turn = this.running;
    if (!turn) return;
    turn.stopWanted = true;
    this.#cancel(turn);
    changed("chat");
  }

  #cancel(turn) {
    this.#send({ message_type: "chat_completion", action: "cancel", request_id: turn.id });
  }

  // Being notified

  /** Takes a chat_completion message. */
  receive(message) {
    const turn = this.turns.find(({ id }) => id === message.request_id);
    if (!turn) {
      if (message.data.error && !message.request_id) {
        state.complaint = message.data.error;
        changed("complaint");
      }
      return;
    }
    if (!takeMessage(turn, message)) return;
    if (turn.phase === "ended") this.#ended(turn, message.data.error);
    else this.#saveSoon();
    changed("chat");
  }

  #ended(turn, error) {
    if (error?.retry_after > 0) this.#waitFor(error.retry_after);
    this.keep();
    if (!turn.answer && turn.ending.finish_reason === "error" && !turn.elsewhere) changed("chat-failed");
  }

  #waitFor(seconds) {
    this.waitUntil = performance.now() + seconds * 1000;
    const tick = setInterval(() => {
      if (performance.now() >= this.waitUntil) clearInterval(tick);
      changed("chat");
    }, 500);
  }

  /** A command was refused because there were too many: repeats what the answer under way needs. */
  commandsRefused() {
    setTimeout(() => this.#goOn(), RETRY_MS);
  }

  /** A component changed: what the server offers, and its models, may have changed with it. */
  async statusChanged() {
    await readStatus();
    await this.readModels();
  }

  /** Reads GET /v1/models. */
  async readModels() {
    if (this.obstacle?.final) return;
    try {
      const list = await ask("GET", "v1/models");
      this.models = (list.data ?? []).map(({ id }) => String(id));
      this.modelsProblem = "";
    } catch (problem) {
      this.modelsProblem = problem.message;
    }
    changed("models");
  }

  // Keeping

  /** All conversations that are kept, the newest first: [{id, title}]. */
  async list() {
    const all = await this.#store.list();
    return all.map((each) => ({ id: each.id, title: titleOf(each) }));
  }

  /** Shows another conversation, or a new one. */
  async show(id) {
    if (id === this.conversation.id) return;
    await this.#save();
    this.#use((id && (await this.#store.get(id))) || newConversation());
    if (this.#open()) this.#goOn();
    changed("chat");
  }

  #use(conversation) {
    this.conversation = conversation;
    keepIn(sessionStorage, CURRENT, conversation.id);
  }

  /** Forgets this conversation. */
  async remove() {
    if (this.running) this.stop();
    const { id } = this.conversation;
    this.#use(newConversation());
    changed("chat");
    await this.#store.remove(id);
  }

  /** Keeps the conversation as it is now. */
  keep() {
    this.conversation.updated = Date.now();
    changed("chat");
    return this.#save();
  }

  #saveSoon() {
    this.#saveTimer ||= setTimeout(() => this.#save(), SAVE_EVERY_MS);
  }

  async #save() {
    clearTimeout(this.#saveTimer);
    this.#saveTimer = 0;
    if (this.turns.length === 0) return;
    keepIn(sessionStorage, CURRENT, this.conversation.id);
    const before = this.#store.problem;
    await this.#store.put(structuredClone(this.conversation));
    if (before !== this.#store.problem) changed("chat");
  }
}
