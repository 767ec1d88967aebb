// Where conversations are kept: this browser's IndexedDB, the newest hundred. When it keeps nothing, the page says so.

const DATABASE = "streaming-api";
const STORE = "conversations";
const MOST_KEPT = 100;

/** A new conversation. */
export function newConversation() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  const id = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return { id, updated: Date.now(), turns: [], settings: {} };
}

/** What a conversation is called: its first question. */
export const titleOf = ({ turns }) => turns[0]?.question.split("\n")[0].slice(0, 80) || "New conversation";

export class Conversations {
  #database = null;
  /** Why nothing is kept, a sentence, or "". */
  problem = "";

  /** Opens the store; resolves also when there is none. */
  async open() {
    try {
      const opening = indexedDB.open(DATABASE, 1);
      opening.onupgradeneeded = () => opening.result.createObjectStore(STORE, { keyPath: "id" });
      this.#database = await done(opening);
      this.#database.onversionchange = () => this.#database.close();
    } catch {
      this.#refused();
    }
  }

  #refused() {
    this.problem = "This browser keeps nothing for this page: conversations are gone when it is closed.";
  }

  /** All conversations, the newest first. */
  async list() {
    if (!this.#database) return [];
    try {
      const all = await done(this.#database.transaction(STORE).objectStore(STORE).getAll());
      return all.sort((left, right) => right.updated - left.updated);
    } catch {
      return [];
    }
  }

  /** One conversation, or undefined. */
  async get(id) {
    if (!this.#database || !id) return undefined;
    try {
      return await done(this.#database.transaction(STORE).objectStore(STORE).get(id));
    } catch {
      return undefined;
    }
  }

  /** Keeps a conversation as it is now; sets `problem` when that is impossible. */
  async put(conversation) {
    if (!this.#database) return;
    try {
      await done(this.#database.transaction(STORE, "readwrite").objectStore(STORE).put(conversation));
      this.problem = "";
      await this.#forgetOldest();
    } catch (fault) {
      if (fault?.name === "QuotaExceededError") this.problem = "This browser has no room left: this conversation is not kept. Delete older ones.";
      else this.#refused();
    }
  }

  async remove(id) {
    if (this.#database) await done(this.#database.transaction(STORE, "readwrite").objectStore(STORE).delete(id)).catch(() => {});
  }

  async #forgetOldest() {
    const store = this.#database.transaction(STORE).objectStore(STORE);
    if ((await done(store.count())) <= MOST_KEPT) return;
    for (const { id } of (await this.list()).slice(MOST_KEPT)) await this.remove(id);
  }
}

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
