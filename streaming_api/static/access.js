// The API key: kept in sessionStorage, sent as a header in fetch and as a subprotocol on the WebSocket.

import { byId, setText } from "./dom.js";

const STORED = "streaming-api.key";
const SUBPROTOCOL = "streaming-api.v1";

const keysRequired = document.documentElement.dataset.access === "keys";
let key = keysRequired ? sessionStorage.getItem(STORED) : null;
let onKey = () => {};

/** True when there is no point in asking the server without a key. */
export const keyMissing = () => keysRequired && !key;

/** Headers for fetch. */
export const authorization = () => (key ? { Authorization: `Bearer ${key}` } : {});

/** Subprotocols for the WebSocket: none on an open server, else the name that is echoed and the key. */
export const subprotocols = () => (key ? [SUBPROTOCOL, `streaming-api.bearer.${base64url(key)}`] : []);

/** Shows the form; problem is a sentence, or "" when nothing is wrong yet. */
export function askForKey(problem) {
  byId("key-panel").hidden = false;
  byId("key-problem").hidden = !problem;
  setText(byId("key-problem"), problem);
  byId("key-input").focus();
}

/** Forgets a key that the server refused, and asks for another. */
export function keyRefused(reason) {
  if (keysRequired) forget();
  askForKey(reason || "The server did not accept this key. Check that it is complete and has not been revoked.");
}

/** Wires the form; whenKnown is called each time a new key was given. */
export function startAccess(whenKnown) {
  onKey = whenKnown;
  byId("key-form").addEventListener("submit", submit);
  byId("key-forget").addEventListener("click", () => {
    forget();
    location.reload();
  });
  byId("key-forget").hidden = !key;
}

function submit(event) {
  event.preventDefault();
  const given = byId("key-input").value.trim();
  if (!/^[\x21-\x7e]+$/.test(given)) {
    askForKey("A key has only printable ASCII characters and no spaces. Check what was pasted.");
    return;
  }
  key = given;
  sessionStorage.setItem(STORED, key);
  byId("key-input").value = "";
  byId("key-panel").hidden = true;
  byId("key-forget").hidden = false;
  onKey();
}

function forget() {
  key = null;
  sessionStorage.removeItem(STORED);
  byId("key-forget").hidden = true;
}

function base64url(text) {
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
