// All series by source: searched first, a budget for each source, counters as rates; a star makes one a chart.

import { age, count, isCounter, metric, number, splitSeries, title } from "./format.js";
import { arrange, breakable, byId, element, setText, svg } from "./dom.js";
import { addChart } from "./charts.js";
import { changed, isDown, onChange, serverNow, state } from "./state.js";

const BUDGET = 60;
const MORE = 300;
const SPAN_MS = 120_000;
const WIDTH = 96;
const HEIGHT = 24;
const SOURCES = ["process", "prometheus", "exposition"];
const NOISE = /_(bucket|created)(\{|$)/;

const rows = new Map();
const bodies = new Map();
const budgets = new Map();
const stars = new Map();
let search;
let table;
let empty;
let remember;
let watch;

/** Per second between two readings of a counter; null over a restart or without time between. Pure. */
export function rateBetween(before, after) {
  const seconds = (after.time - before.time) / 1000;
  if (seconds <= 0 || !Number.isFinite(before.value) || !Number.isFinite(after.value) || after.value < before.value) return null;
  return (after.value - before.value) / seconds;
}

/** The points of a series as shown: a counter's as rates. Pure. */
function shownPoints(name, points) {
  if (!isCounter(name)) return [...points];
  return points.slice(1).map((point, index) => ({ time: point.time, value: rateBetween(points[index], point) }));
}

/** The names to show of each source, with what is left out: {source: {names, hidden}}. Pure. */
export function choose(sources, words, budgetOf) {
  const noisy = words.some((word) => word.includes("bucket") || word.includes("created"));
  const chosen = new Map();
  for (const [source, names] of sources) {
    const found = names.filter((name) => {
      const text = `${source} ${name}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    const wanted = (noisy ? found : found.filter((name) => !NOISE.test(name))).slice().sort();
    chosen.set(source, { names: wanted.slice(0, budgetOf(source)), hidden: found.length - Math.min(wanted.length, budgetOf(source)), found: found.length });
  }
  return chosen;
}

/** Builds the view; returns what the page asks of it. */
export function startSeries(rememberAll, watchMetrics) {
  remember = rememberAll;
  watch = watchMetrics;
  build(byId("series"));
  for (const key of (new URLSearchParams(location.search).get("stars") ?? "").split("|").filter(Boolean).slice(0, 12)) star(key);
  onChange(["metrics", "components", "clock"], draw);
  draw();
  return { shown: () => search.focus({ preventScroll: true }), starred: () => stars.size > 0, stars: () => [...stars.keys()] };
}

function build(section) {
  search = element("input");
  search.type = "search";
  search.id = "series-search";
  search.placeholder = "Search by source, name or label";
  search.ariaLabel = "Search series";
  search.spellcheck = false;
  search.addEventListener("input", draw);
  table = element("table", "series");
  table.append(element("caption", "hidden", "Series by source, with the last two minutes as a line"));
  empty = element("p", "empty", "waiting for data");
  section.replaceChildren(element("div", "head", element("h2", "", "Series"), search), element("p", "hint", "A star puts a series among the charts. Counters are shown as what they gain a second."), empty, table);
}

const bySource = ([left], [right]) => SOURCES.indexOf(left) - SOURCES.indexOf(right) || left.localeCompare(right);

function draw() {
  if (byId("series").hidden) return;
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const sources = [...state.metrics].map(([source, series]) => [source, [...series.keys()]]).sort(bySource);
  const chosen = choose(sources, words, (source) => budgets.get(source) ?? BUDGET);
  const shown = [...chosen].filter(([, { found }]) => found > 0);
  empty.hidden = shown.length > 0;
  setText(empty, emptyText());
  arrange(table, [table.caption, ...shown.map(([source, choice]) => sourceBody(source, choice))]);
  const kept = new Set(shown.flatMap(([source, { names }]) => names.map((name) => `${source} ${name}`)));
  for (const key of rows.keys()) if (!kept.has(key)) rows.delete(key);
}

function emptyText() {
  if (state.status?.scopes && !state.status.scopes.includes("watch")) return "This key may chat, and not watch: series are not shown to it.";
  if (state.status?.capabilities?.metrics === false) return "Metrics are turned off in the configuration.";
  return state.metrics.size === 0 ? "waiting for data" : "No series matches this search.";
}

function sourceBody(source, { names, hidden, found }) {
  if (!bodies.has(source)) {
    const hint = element("span", "hint");
    const head = element("th", "", title(source), hint);
    head.colSpan = 4;
    head.scope = "rowgroup";
    const more = element("button", "quiet", "");
    more.type = "button";
    more.addEventListener("click", () => {
      budgets.set(source, (budgets.get(source) ?? BUDGET) + MORE);
      draw();
    });
    const moreCell = element("td", "", more);
    moreCell.colSpan = 4;
    bodies.set(source, { node: element("tbody"), hint, more, headRow: element("tr", "source", head), moreRow: element("tr", "more", moreCell) });
  }
  const { node, hint, more, headRow, moreRow } = bodies.get(source);
  const down = isDown(source);
  const seconds = (performance.now() - (state.metricsAt.get(source) ?? 0)) / 1000;
  setText(hint, ` ${count(found)} series, ${down ? "down: values are from" : "changed"} ${age(seconds)} ago`);
  node.classList.toggle("is-old", down);
  moreRow.hidden = hidden === 0;
  setText(more, `Show more: ${count(hidden)} are left out`);
  arrange(node, [headRow, ...names.map((name) => seriesRow(source, name)), moreRow]);
  return node;
}

function seriesRow(source, name) {
  const key = `${source} ${name}`;
  if (!rows.has(key)) rows.set(key, buildRow(key, name));
  const row = rows.get(key);
  const { value, points } = state.metrics.get(source).get(name);
  const shown = shownPoints(name, points);
  const rate = shown.at(-1)?.value ?? null;
  setText(row.value, isCounter(name) ? (shown.length === 0 ? metric(name, value) : rate === null ? "–" : `${number(Number(rate.toPrecision(3)))}/s`) : metric(name, value));
  row.value.title = String(value);
  row.path.setAttribute("d", stepPath(shown, points.at(-1).time));
  row.button.setAttribute("aria-pressed", String(stars.has(key)));
  return row.node;
}

function buildRow(key, name) {
  const [bare, labels] = splitSeries(name);
  const heading = element("th", "", breakable("span", "name", bare));
  heading.scope = "row";
  if (labels) heading.append(element("wbr"), breakable("span", "series-labels", labels));
  const button = element("button", "star");
  button.type = "button";
  button.ariaLabel = `Chart of ${name}`;
  button.addEventListener("click", () => toggle(key));
  const path = svg("path", { d: "" });
  const spark = svg("svg", { class: "sparkline", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  spark.append(path);
  const value = element("td", "value");
  return { node: element("tr", "", element("td", "", button), heading, element("td", "spark", spark), value), path, value, button };
}

function stepPath(points, now) {
  const values = points.map(({ value }) => value).filter(Number.isFinite);
  if (values.length === 0) return "";
  const low = Math.min(...values);
  const range = Math.max(...values) - low;
  const round = (each) => Math.round(each * 10) / 10;
  const span = Math.min(SPAN_MS, Math.max(20_000, now - points[0].time));
  const x = (time) => round(Math.max(0, Math.min(1, 1 - (now - time) / span)) * WIDTH);
  const y = (value) => round(range === 0 ? HEIGHT / 2 : HEIGHT - 2 - ((value - low) / range) * (HEIGHT - 4));
  let path = "";
  let drawing = false;
  for (const { time, value } of points) {
    if (!Number.isFinite(value)) drawing = false;
    else {
      path += drawing ? `H${x(time)}V${y(value)}` : `M${x(time)} ${y(value)}`;
      drawing = true;
    }
  }
  return drawing ? `${path}H${WIDTH}` : path;
}

// Stars

function toggle(key) {
  if (stars.has(key)) unstar(key);
  else star(key);
  watch(stars.size > 0);
  remember();
  draw();
}

function star(key) {
  const source = key.slice(0, key.indexOf(" "));
  const name = key.slice(source.length + 1);
  if (!source || !name || stars.has(key)) return;
  const chart = {
    id: `star-${stars.size}`,
    title: name,
    unit: /_seconds/.test(name) && !isCounter(name) ? "seconds" : "rate",
    lines: [{ label: isCounter(name) ? `${title(source)}, per second` : title(source), of: "", tone: "main", area: true }],
    points: () => starredColumns(source, name),
  };
  stars.set(key, addChart(byId("charts"), chart));
  changed("view");
}

function starredColumns(source, name) {
  const series = state.metrics.get(source)?.get(name);
  if (series) series.starred = true;
  const points = shownPoints(name, series?.points ?? []);
  if (points.length > 0 && !isDown(source)) points.push({ time: serverNow(), value: points.at(-1).value }); // holds until it changes
  return { times: points.map(({ time }) => time / 1000), columns: [points.map(({ value }) => (Number.isFinite(value) ? value : null))] };
}

function unstar(key) {
  stars.get(key)();
  stars.delete(key);
}
