// Requests over HTTP: JSON in, the server's own error sentences out. Knows no panel.

import { authorization } from "./access.js";
import { beside } from "./dom.js";
import { changed, state } from "./state.js";

const TIMEOUT_MS = 4000;

/** A request that failed: status is the HTTP status, or 0 when no answer came. */
export class RequestFailed extends Error {
  constructor(status, message, code = "", retryAfter = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/**
 * Asks the server: resolves to the JSON document, or with `stream` to the response. Throws RequestFailed.
 * options: {body, headers, signal, stream}.
 */
export async function ask(method, path, { body, headers = {}, signal, stream = false } = {}) {
  const impatience = new AbortController();
  const timer = setTimeout(() => impatience.abort(), TIMEOUT_MS);
  let response;
  let text = "";
  try {
    response = await fetch(beside(path), {
      method,
      body,
      headers: { Accept: "application/json", ...(body && { "Content-Type": "application/json" }), ...authorization(), ...headers },
      cache: "no-store",
      signal: signal ? AbortSignal.any([signal, impatience.signal]) : impatience.signal,
    });
    if (stream && response.ok) return response;
    text = await response.text();
  } catch {
    throw new RequestFailed(0, impatience.signal.aborted ? "The server did not answer in time." : "The server cannot be reached.");
  } finally {
    clearTimeout(timer);
  }
  const document = parse(text);
  if (!response.ok) throw refusal(response, document);
  if (method === "GET" && document === null) throw new RequestFailed(0, "The server's answer is not JSON.");
  return document;
}

/** Reads what the server is and offers now; when it does not answer, what was known stays. */
export async function readStatus() {
  if (state.status?.scopes && !state.status.scopes.includes("watch")) return;
  try {
    state.status = await ask("GET", "streaming/status");
    changed("status");
  } catch {
    // The connection says when the server is gone.
  }
}

function refusal(response, document) {
  const { message, code } = document?.error ?? {};
  const wait = Number(response.headers.get("Retry-After"));
  return new RequestFailed(response.status, message || `The server answered ${response.status}.`, code ?? "", wait > 0 ? wait : null);
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
