// Firing and pending alerts. Every word of an alert is somebody else's: text nodes only, links only to http.

import { duration } from "./format.js";
import { arrange, byId, element, pill, setText } from "./dom.js";
import { onChange, secondsSince, state } from "./store.js";

const TONES = { critical: "bad", error: "bad", page: "bad", warning: "warn", info: "idle", none: "idle" };
const ORDER = ["bad", "warn", "idle"];
const MOST_SHOWN = 100;
const HIDDEN_LABELS = new Set(["alertname", "severity"]);

/** Wires the panel. */
export function startAlerts() {
  onChange(["alerts", "status"], draw);
}

const severity = ({ labels }) => String(labels?.severity || "no severity");
const tone = (alert) => TONES[severity(alert)] ?? "warn";

function draw() {
  const off = state.status?.capabilities?.alerts === false;
  const alerts = [...state.alerts.values()].sort(worstFirst);
  const empty = byId("alerts-empty");
  empty.hidden = alerts.length > 0;
  if (off) setText(empty, "Alerts are turned off in the configuration.");
  else if (state.alertsKnown) setText(empty, "Nothing is firing.");
  const nodes = alerts.slice(0, MOST_SHOWN).map(alertRow);
  if (alerts.length > MOST_SHOWN) nodes.push(element("li", "hint", `and ${alerts.length - MOST_SHOWN} more`));
  arrange(byId("alerts"), nodes);
}

function worstFirst(left, right) {
  const rank = (alert) => (alert.state === "firing" ? 0 : ORDER.length) + ORDER.indexOf(tone(alert));
  return rank(left) - rank(right) || String(right.starts_at).localeCompare(String(left.starts_at));
}

const drawn = new Map();

function alertRow(alert) {
  const key = `${alert.source}/${alert.fingerprint}`;
  const text = JSON.stringify(alert);
  let row = drawn.get(key);
  if (row?.text !== text) {
    row = { text, ...buildRow(alert) };
    drawn.set(key, row);
    if (drawn.size > 4 * MOST_SHOWN) drawn.delete(drawn.keys().next().value);
  }
  const seconds = secondsSince(alert.starts_at);
  setText(row.since, seconds === null ? "" : `for ${duration(seconds)}`);
  return row.node;
}

function buildRow(alert) {
  const { labels = {}, annotations = {} } = alert;
  const name = labels.alertname || "Unnamed alert";
  const summary = annotations.summary || annotations.description || annotations.message || "";
  const since = element("span", "since");
  const pending = alert.state === "pending";
  const mark = pill(pending ? `${severity(alert)}, pending` : severity(alert), pending ? "idle" : tone(alert));
  const head = element("p", "line", mark, since);
  const said = element("p", "summary", element("strong", "", name));
  if (summary) said.append(" ", summary);
  const node = element("li", "alert", head, said, details(alert, labels));
  node.dataset.tone = pending ? "idle" : tone(alert);
  return { node, since };
}

function details(alert, labels) {
  const line = element("p", "labels", element("span", "from", `from ${alert.source}`));
  for (const [name, value] of Object.entries(labels)) {
    if (!HIDDEN_LABELS.has(name)) line.append(" ", element("code", "", `${name}=${value}`));
  }
  const link = safeLink(alert.generator_url);
  if (link) line.append(" ", link);
  return line;
}

function safeLink(address) {
  if (!/^https?:\/\//i.test(address ?? "")) return null;
  const link = element("a", "", "source");
  link.href = address;
  link.rel = "noopener noreferrer";
  link.target = "_blank";
  return link;
}
