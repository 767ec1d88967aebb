// What this browser keeps for this page, where it may keep anything.

/** Reads from a storage that may be forbidden. */
export function recall(storage, name) {
  try {
    return storage.getItem(name);
  } catch {
    return null;
  }
}

/** Writes to a storage that may be forbidden or full. */
export function keepIn(storage, name, value) {
  try {
    storage.setItem(name, value);
  } catch {
    // Then it is forgotten with the page; conversations, which matter more, say so.
  }
}
