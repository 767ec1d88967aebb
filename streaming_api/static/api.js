// Requests over HTTP: JSON in, the server's own error sentences out. Knows no panel.

import { authorization } from "./access.js";
import { state } from "./store.js";

const TIMEOUT_MS = 4000;

/** A request that failed: status is the HTTP status, or 0 when no answer came. */
export class RequestFailed extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** GET a JSON document; throws RequestFailed. */
export const getJson = (path) => request("GET", path);

/** DELETE a resource; throws RequestFailed. */
export const remove = (path) => request("DELETE", path);

async function request(method, path) {
  let response;
  let body;
  try {
    response = await fetch(path, {
      method,
      headers: { Accept: "application/json", ...authorization() },
      cache: "no-store",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    body = await response.text();
  } catch (problem) {
    const late = problem.name === "TimeoutError";
    throw new RequestFailed(0, late ? "The server did not answer in time." : "The server cannot be reached.");
  }
  noteClock(response.headers.get("Date"));
  const document = parse(body);
  if (!response.ok) {
    const said = document?.error?.message;
    throw new RequestFailed(response.status, said || `The server answered ${response.status}.`);
  }
  if (method === "GET" && document === null) throw new RequestFailed(0, "The server's answer is not JSON.");
  return document;
}

function parse(body) {
  try {
    return JSON.parse(body);
  } catch {
    return null;
  }
}

function noteClock(date) {
  const parsed = Date.parse(date ?? "");
  if (!Number.isNaN(parsed)) state.clockOffset = parsed + 500 - Date.now();
}
