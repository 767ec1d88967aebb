// The verdict: one line that says whether all is well, how old it is; the tab's title and icon say it, too.

import { age, count, duration, plural, severityTone, title } from "./format.js";
import { arrange, byId, element, pill, setText, setTone } from "./dom.js";
import { changed, counting, dataAge, noFigures, onChange, secondsSince, state } from "./state.js";

const STALE_SECONDS = 5;
const TICK_MS = 500;
const UPSTREAMS = ["gateway", "embedded_model"];
const WORST = ["bad", "warn", "idle", "ok"];

/**
 * What there is to say, the worst first: [{tone, text, forHow, detail}]. Pure: `known` is {components: {name: COMPONENT},
 * alerts that count, draining, chat: whether this server answers chats, since(timestamp) in seconds}.
 */
export function findings({ components, alerts, draining, chat, since }) {
  const found = [];
  const forHow = (begun) => (since(begun) === null ? "" : `, for ${duration(since(begun))}`);
  if (draining) found.push({ tone: "warn", text: "This server is stopping", detail: "Clients are asked to connect again." });
  for (const [name, component] of Object.entries(components)) {
    const what = title(name);
    const detail = component.reason ?? "";
    const upstream = UPSTREAMS.includes(name) && chat;
    if (component.state === "down" && upstream) {
      found.push({ tone: "bad", text: `No answers: the ${what.toLowerCase()} is down`, forHow: forHow(component.since), detail });
    } else if (component.state === "down") found.push({ tone: "warn", text: `${what} is down`, forHow: forHow(component.since), detail });
    else if (component.state === "loading" && upstream) found.push({ tone: "warn", text: "The model is loading", detail });
    else if (component.state === "absent" && upstream) found.push({ tone: "idle", text: "There is no model here", detail });
  }
  const down = found.some(({ text }) => text.startsWith("No answers"));
  const telling = alerts.filter(({ labels, source }) => !(down && source === "streaming-api" && labels?.alertname === "UpstreamDown"));
  const tones = telling.map(({ labels }) => severityTone(labels?.severity));
  for (const tone of ["bad", "warn", "idle"]) {
    const alike = telling.filter((_, index) => tones[index] === tone);
    if (alike.length === 0) continue;
    const kind = { bad: "critical alert", warn: "warning", idle: "notice" }[tone];
    const text = `${plural(alike.length, kind)}: ${namesOf(alike.map(({ labels }) => labels?.alertname || "Unnamed alert"))}`;
    const [{ annotations, starts_at: begun }] = alike;
    const alone = alike.length === 1 && tone !== "idle";
    found.push(alone ? { tone, text, forHow: forHow(begun), detail: sentence(annotations?.summary ?? "") } : { tone, text, detail: "" });
  }
  return found.sort((left, right) => WORST.indexOf(left.tone) - WORST.indexOf(right.tone));
}

/** What is well when nothing is wrong: how much of it there is. Pure. */
export function calmDetail({ components, alertsKnown, silenced }) {
  const states = Object.values(components);
  const up = states.filter(({ state: now }) => now === "up").length;
  const said = [];
  if (alertsKnown) said.push(silenced > 0 ? `Nothing is firing but ${plural(silenced, "silenced alert")}.` : "Nothing is firing.");
  if (up > 1 && up === states.length) said.push(`All ${count(up)} components are up.`);
  return said.join(" ");
}

const sentence = (text) => (text && !/[.!?…]$/.test(text.trim()) ? `${text.trim()}.` : text.trim());

function namesOf(names) {
  const different = [...new Set(names)];
  const shown = different.slice(0, 3).join(", ");
  return different.length > 3 ? `${shown} and ${count(different.length - 3)} more` : shown;
}

/** Wires the verdict; retry() is called by the banner's button. */
export function startVerdict(retry) {
  onChange(["clock", "connection", "components", "alerts", "status"], draw);
  byId("banner-retry").addEventListener("click", retry);
  setInterval(() => changed("clock"), TICK_MS);
  document.addEventListener("visibilitychange", () => changed("clock"));
}

const MODES = {
  socket: "",
  events: "over event streams",
  polling: "asked for every 2 s",
};

function draw() {
  const seconds = dataAge();
  const stale = seconds !== null && seconds > STALE_SECONDS;
  const lost = lostSince();
  document.documentElement.classList.toggle("stale", stale || lost !== null);
  document.body.classList.toggle("blind", blind());
  document.body.classList.toggle("locked", !state.status && state.connection.phase === "closed");
  const { tone, text, forHow = "", detail } = verdict(stale, seconds, lost);
  setTone(byId("verdict"), tone);
  setText(byId("verdict-said"), text);
  setText(byId("verdict-for"), forHow);
  setText(byId("verdict-detail"), detail);
  drawAge(seconds, stale);
  drawBanner();
  drawTab(tone, text, stale || lost !== null);
}

function verdict(stale, seconds, lost) {
  const { phase, reason } = state.connection;
  if (lost !== null) return { tone: "idle", text: "No news", forHow: ` for ${duration(Math.max(lost, seconds ?? 0))}`, detail: "What is below is how it was then." };
  if (stale) return { tone: "idle", text: "No news", forHow: ` for ${duration(seconds)}`, detail: "The server has gone silent; what is below is how it was then." };
  if (!state.status && phase === "closed") return { tone: "idle", text: reason ? "Nothing is known" : "This server asks for a key", detail: reason };
  if (!state.status && phase !== "open") return { tone: "idle", text: "Connecting", detail: "" };
  if (blind()) return { tone: "idle", text: "This key may chat, and not watch", detail: "The chat is open. For figures and alerts, ask the operator for a key with the scope watch." };
  const found = findings({
    components: Object.fromEntries(state.components),
    alerts: counting(),
    draining: (state.componentsKnown ? state.components.get("streaming-api") : state.status)?.state === "draining",
    chat: state.status?.capabilities?.chat !== false,
    since: secondsSince,
  });
  const calm = found.every(({ tone }) => tone === "idle");
  const listed = (each) => `${each.text}${each.forHow ?? ""}.`;
  if (calm) {
    const silenced = [...state.alerts.values()].filter(({ suppressed }) => suppressed).length;
    const detail = calmDetail({ components: Object.fromEntries(state.components), alertsKnown: state.alertsKnown && counting().length === 0, silenced });
    return { tone: "ok", text: "All well", detail: [...found.map(listed), detail].filter(Boolean).join(" ") };
  }
  const [first, ...rest] = found;
  return { ...first, detail: [first.detail, ...rest.map(listed)].filter(Boolean).join(" ") };
}

/** Whether there is nothing that this page may show but the chat. */
const blind = () => !state.componentsKnown && state.status?.scopes !== undefined && !state.status.scopes.includes("watch");

function drawAge(seconds, stale) {
  const node = byId("data-age");
  setTone(node, stale ? "bad" : "idle");
  const mode = MODES[state.connection.mode];
  const words = noFigures() ? (state.connection.phase === "open" ? "connected" : "") : seconds === null ? "no data yet" : stale ? `${age(seconds)} old` : seconds < 2 ? "live" : `${age(seconds)} ago`;
  setText(node, mode && !stale ? `${words}, ${mode}` : words);
  const down = [...state.components.keys()].filter((name) => state.components.get(name).state === "down" && hasShown(name));
  setText(byId("data-old"), down.length > 0 ? `${down.map(title).join(", ")}: values are from before.` : "");
}

/** Whether something on the page was reported by this source. */
const hasShown = (source) => state.metrics.get(source)?.size > 0 || [...state.alerts.values()].some(({ sources }) => sources?.includes(source));

/** Seconds since the connection was lost; null when it is there or never was. */
function lostSince() {
  const { lostAt, phase } = state.connection;
  return lostAt === null || phase === "open" || phase === "closed" ? null : (performance.now() - lostAt) / 1000;
}

function drawBanner() {
  const { phase, mode, reason, retryAt } = state.connection;
  const standIn = phase === "open" && mode !== "socket";
  const shown = standIn || phase === "waiting" || (phase === "connecting" && lostSince() !== null) || (phase === "closed" && Boolean(reason));
  byId("banner").hidden = !shown;
  if (!shown) return;
  byId("banner-retry").hidden = phase === "connecting";
  setText(byId("banner-title"), reason || "Disconnected.");
  const left = Math.max(0, Math.ceil((retryAt - performance.now()) / 1000));
  const next = { waiting: left > 0 ? `Trying again in ${left} s.` : "Trying again now.", connecting: "Trying now.", closed: "" }[phase] ?? instead[mode];
  setText(byId("banner-detail"), next);
}

const instead = { events: "Everything comes over event streams instead.", polling: "No event stream passes either: the page asks every 2 s." };

const COLOURS = { ok: "#2f9e63", warn: "#d08a00", bad: "#d23b30", idle: "#7a8599", stale: "#9aa3b2" };
let iconTone = "";

/** The tab: "(2!) name", and a mark in the colour of the verdict. */
function drawTab(tone, text, stale) {
  const firing = counting().length;
  const name = document.documentElement.dataset.service;
  const lead = stale ? "(?) " : firing > 0 ? `(${firing}!) ` : tone === "bad" ? "(!) " : "";
  if (document.title !== lead + name) document.title = lead + name;
  const now = stale ? "stale" : tone;
  if (now === iconTone) return;
  iconTone = now;
  byId("icon").href = `data:image/svg+xml,${encodeURIComponent(iconOf(COLOURS[now]))}`;
}

const iconOf = (colour) =>
  `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="9" fill="${colour}"/>` +
  '<path d="M8 16h16M8 16c6 0 6-7 12-7h3M8 16c6 0 6 7 12 7h3" stroke="#fff" stroke-width="2.6" fill="none" stroke-linecap="round"/></svg>';

// The parts: how each component is, beside the verdict that follows from them

const STATES = { up: ["up", "ok"], down: ["down", "bad"], loading: ["loading", "warn"], draining: ["stopping", "warn"], absent: ["absent", "idle"] };
const ORDER = ["down", "draining", "loading", "absent", "up"];
const parts = new Map();

/** Wires the list of components. */
export function startParts() {
  onChange(["components", "status", "clock"], () => {
    const known = state.componentsKnown ? [...state.components] : Object.entries(state.status?.components ?? {});
    const rank = ([name, { state: now }]) => 2 * ORDER.indexOf(now) - (now !== "up" && UPSTREAMS.includes(name) ? 1 : 0);
    known.sort((left, right) => rank(left) - rank(right));
    byId("parts-empty").hidden = known.length > 0;
    arrange(byId("parts"), known.map(([name, component]) => drawPart(name, component)));
  });
}

function drawPart(name, component) {
  if (!parts.has(name)) {
    const mark = pill("", "idle");
    const since = element("span", "since");
    const reason = element("p", "reason");
    reason.dir = "auto";
    parts.set(name, { node: element("li", "part", element("span", "name", title(name)), mark, since, reason), mark, since, reason });
  }
  const { node, mark, since, reason } = parts.get(name);
  const [word, tone] = STATES[component.state] ?? [component.state, "warn"];
  setText(mark, word);
  setTone(mark, tone);
  const seconds = component.since ? secondsSince(component.since) : null;
  setText(since, seconds === null ? "" : `for ${duration(seconds)}`);
  setText(reason, component.reason ?? "");
  reason.hidden = !component.reason;
  return node;
}
