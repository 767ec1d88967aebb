// Alerts as a work list: grouped by name, worst first. Every word of an alert is somebody else's: text nodes only.

import { count, duration, plural, severityTone, title } from "./format.js";
import { arrange, breakable, byId, element, pill, setText } from "./dom.js";
import { isDown, isOld, onChange, secondsSince, serverNow, state } from "./state.js";

const MOST_GROUPS = 60;
const MOST_OF_GROUP = 20;
const FEW = 5;
const HOUR_MS = 3_600_000;
const TONES = ["bad", "warn", "idle"];
const WORDS = { bad: "critical", warn: "warning", idle: "other" };
const HIDDEN_LABELS = new Set(["alertname", "severity"]);

const nameOf = ({ labels }) => labels?.alertname || "Unnamed alert";
const toneOf = (alert) => (alert.state === "pending" ? "idle" : severityTone(alert.labels?.severity));

/** Groups by name, [{name, tone, alerts}], the worst and then the newest first; `words` must all occur. Pure. */
export function groupsOf(alerts, words = []) {
  const groups = new Map();
  for (const alert of alerts) {
    if (!matches(alert, words)) continue;
    const name = nameOf(alert);
    if (!groups.has(name)) groups.set(name, { name, tone: "idle", alerts: [], newest: "" });
    const group = groups.get(name);
    group.alerts.push(alert);
    if (TONES.indexOf(toneOf(alert)) < TONES.indexOf(group.tone)) group.tone = toneOf(alert);
    if (String(alert.starts_at) > group.newest) group.newest = String(alert.starts_at);
  }
  const rank = ({ tone }) => TONES.indexOf(tone);
  for (const group of groups.values()) {
    group.alerts.sort((a, b) => TONES.indexOf(toneOf(a)) - TONES.indexOf(toneOf(b)) || String(b.starts_at).localeCompare(String(a.starts_at)));
  }
  return [...groups.values()].sort((a, b) => rank(a) - rank(b) || b.newest.localeCompare(a.newest) || a.name.localeCompare(b.name));
}

function matches({ labels = {}, annotations = {} }, words) {
  if (words.length === 0) return true;
  const text = [...Object.entries(labels).map(([name, value]) => `${name}=${value}`), ...Object.values(annotations)].join(" ").toLowerCase();
  return words.every((word) => text.includes(word));
}

/** The address of Alertmanager's form for a silence of this alert, or null. Pure. */
export function silenceLink({ manager_url: manager, labels = {} }) {
  if (!/^https?:\/\//i.test(manager ?? "")) return null;
  const quoted = (text) => `"${String(text).replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n")}"`;
  const matchers = Object.entries(labels).map(([name, value]) => `${name}=${quoted(value)}`);
  return `${manager.replace(/\/+$/, "")}/#/silences/new?filter=${encodeURIComponent(`{${matchers.join(",")}}`)}`;
}

/** Wires the list; remember() is called when the filter changed. */
export function startAlerts(remember) {
  onChange(["alerts", "status", "components"], draw);
  onChange(["clock"], drawAges);
  byId("alerts-filter").addEventListener("input", () => {
    draw();
    remember();
  });
}

function draw() {
  const words = byId("alerts-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const all = [...state.alerts.values()];
  const active = all.filter(({ suppressed }) => !suppressed);
  const quiet = all.filter(({ suppressed }) => suppressed);
  const since = serverNow() - HOUR_MS;
  const resolved = state.resolved.filter((alert) => !state.alerts.has(alert.fingerprint) && Date.parse(alert.ends_at) > since);
  const groups = groupsOf(active, words);
  drawEmpty(active.length > 0, groups.length > 0);
  drawCounts(active);
  byId("alerts-filter").hidden = all.length + resolved.length <= FEW && words.length === 0;
  fill(byId("alerts"), groups, "active");
  fold("alerts-quiet", quiet, words, "silenced or inhibited");
  fold("alerts-resolved", resolved, words, "resolved in the last hour");
}

function drawEmpty(firing, shown) {
  const empty = byId("alerts-empty");
  empty.hidden = shown;
  if (state.status?.capabilities?.alerts === false) setText(empty, "Alerts are turned off in the configuration.");
  else if (!state.alertsKnown) setText(empty, "waiting for data");
  else setText(empty, firing ? "No alert matches this filter." : "Nothing is firing.");
}

function drawCounts(active) {
  const parts = TONES.map((tone) => [tone, active.filter((alert) => alert.state === "firing" && severityTone(alert.labels?.severity) === tone).length]);
  const pending = active.filter(({ state: now }) => now === "pending").length;
  const marks = parts.filter(([, number]) => number > 0).map(([tone, number]) => pill(`${count(number)} ${WORDS[tone]}`, tone));
  if (pending > 0) marks.push(pill(`${count(pending)} pending`, "idle"));
  const text = marks.map(({ textContent }) => textContent).join("|");
  const node = byId("alerts-counts");
  if (node.dataset.text === text) return;
  node.dataset.text = text;
  node.replaceChildren(...marks);
}

function fold(id, alerts, words, what) {
  const box = byId(id);
  const groups = groupsOf(alerts, words);
  box.hidden = groups.length === 0;
  if (box.hidden) return;
  setText(box.querySelector("summary"), `${plural(groups.reduce((sum, group) => sum + group.alerts.length, 0), "alert")} ${what}`);
  fill(box.querySelector("ul"), groups, id);
}

// Rows are kept by what they show, so that an open one stays open

const rows = new Map();

function fill(list, groups, section) {
  const nodes = groups.slice(0, MOST_GROUPS).map((group) => groupNode(group, section));
  if (groups.length > MOST_GROUPS) nodes.push(element("li", "hint", `and ${plural(groups.length - MOST_GROUPS, "more name")}; filter to see them`));
  arrange(list, nodes);
}

function groupNode(group, section) {
  const shown = group.alerts.slice(0, MOST_OF_GROUP).map((alert) => alertRow(alert, group.alerts.length > 1));
  if (group.alerts.length === 1) return shown[0];
  const key = `${section}/${group.name}`;
  if (!rows.has(key)) {
    const mark = pill("", "idle");
    const list = element("ul", "alert-list");
    const box = element("details", "group", element("summary", "", mark, breakable("strong", "", group.name), element("span", "since")), list);
    rows.set(key, { node: element("li", "alert-group", box), mark, list, number: box.querySelector(".since") });
    bound();
  }
  const { node, mark, list, number } = rows.get(key);
  setText(mark, WORDS[group.tone]);
  mark.dataset.tone = node.dataset.tone = group.tone;
  setText(number, `${count(group.alerts.length)} alerts`);
  const more = group.alerts.length - shown.length;
  arrange(list, more > 0 ? [...shown, element("li", "hint", `and ${count(more)} more; filter to see them`)] : shown);
  return node;
}

function bound() {
  while (rows.size > 2 * MOST_GROUPS * MOST_OF_GROUP) rows.delete(rows.keys().next().value);
}

function alertRow(alert, inGroup) {
  const key = `${alert.fingerprint}/${alert.state}/${inGroup}`;
  const old = isOld(alert);
  const downs = (alert.sources ?? [alert.source]).filter(isDown);
  const text = JSON.stringify([alert, old, downs]);
  if (rows.get(key)?.text !== text) {
    rows.delete(key);
    rows.set(key, { text, alert, ...buildRow(alert, old, downs, inGroup) });
    bound();
  }
  const row = rows.get(key);
  drawAge(row);
  return row.node;
}

function drawAge({ alert, since }) {
  const seconds = secondsSince(alert.state === "resolved" ? alert.ends_at : alert.starts_at);
  setText(since, seconds === null ? "" : alert.state === "resolved" ? `${duration(seconds)} ago` : `for ${duration(seconds)}`);
}

function drawAges() {
  for (const row of rows.values()) if (row.alert && row.node.isConnected) drawAge(row);
}

function buildRow(alert, old, downs, inGroup) {
  const { annotations = {}, labels = {} } = alert;
  const tone = alert.state === "resolved" || alert.suppressed ? "idle" : toneOf(alert);
  const summary = annotations.summary || annotations.message || "";
  const since = element("span", "since");
  const said = element(inGroup ? "span" : "p", "summary", summary);
  said.dir = "auto";
  const line = element("p", "line", pill(stateWord(alert), tone), inGroup ? said : breakable("strong", "", nameOf(alert)), since);
  const node = element("li", "alert", line);
  if (summary && !inGroup) node.append(said);
  const description = annotations.description || "";
  if (description && description !== summary) {
    const text = element("p", "description", description);
    text.dir = "auto";
    node.append(text);
  }
  const named = labelLine(labels);
  if (named.hasChildNodes()) node.append(named);
  node.append(linkLine(alert, annotations));
  if (downs.length > 0) node.append(element("p", "old", oldText(downs, old)));
  node.dataset.tone = tone;
  node.classList.toggle("is-old", old);
  return { node, since };
}

function stateWord({ state: now, suppressed, labels }) {
  if (now === "resolved") return "resolved";
  if (suppressed) return suppressed;
  const severity = labels?.severity;
  if (now === "pending") return severity ? `${severity}, pending` : "pending";
  return String(severity || "no severity");
}

function oldText(downs, old) {
  const since = state.components.get(downs[0])?.since;
  const seconds = since ? secondsSince(since) : null;
  const when = since ? ` since ${new Date(since).toLocaleTimeString("en-GB")}` : "";
  return old ? `Old: ${title(downs[0])} is down${when}.` : `${title(downs[0])} is down${seconds === null ? "" : when}; others still report it.`;
}

function labelLine(labels) {
  const line = element("p", "labels");
  for (const [name, value] of Object.entries(labels)) {
    if (!HIDDEN_LABELS.has(name)) line.append(element("code", "", `${name}=${value}`), " ");
  }
  return line;
}

function linkLine(alert, annotations) {
  const line = element("p", "links", element("span", "from", `from ${(alert.sources ?? [alert.source]).join(", ")}`));
  const links = [
    ["Runbook", annotations.runbook_url || annotations.runbook],
    ["Dashboard", annotations.dashboard_url || annotations.dashboard],
    ["Source", alert.generator_url],
    ["Silence", alert.state === "resolved" || alert.suppressed ? null : silenceLink(alert)],
  ];
  for (const [text, address] of links) {
    const link = safeLink(text, address);
    if (!link) continue;
    link.ariaLabel = `${text}: ${nameOf(alert)}`;
    line.append(" ", link);
  }
  return line;
}

function safeLink(text, address) {
  if (!/^https?:\/\//i.test(address ?? "")) return null;
  const link = element("a", "", text);
  link.href = address;
  link.rel = "noopener noreferrer";
  link.target = "_blank";
  return link;
}
