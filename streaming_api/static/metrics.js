// Current metrics by source: a filterable table, each series with its recent values as a line.

import { age, count, metric, splitSeries, title } from "./format.js";
import { arrange, byId, element, setText } from "./dom.js";
import { drawSparkline, sparkline } from "./sparkline.js";
import { onChange, state } from "./store.js";

const MOST_SHOWN = 200;
const SPAN_MS = 120_000;
const SOURCES = ["prometheus", "exposition", "process"];
const NOISE = /_(bucket|created)(\{|$)/;

const bodies = new Map();
const rows = new Map();

/** Wires the panel. */
export function startMetrics() {
  onChange(["metrics", "metrics-filter", "status"], draw);
  onChange(["clock"], drawAge);
  byId("metrics-filter").addEventListener("input", draw);
}

function drawAge() {
  const text = state.metricsAt === null ? "" : `changed ${age((performance.now() - state.metricsAt) / 1000)} ago`;
  setText(byId("metrics-age"), text);
}

function draw() {
  const words = byId("metrics-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const { shown, hidden, total } = choose(words);
  byId("metrics").hidden = shown.size === 0;
  byId("metrics-empty").hidden = shown.size > 0;
  setText(byId("metrics-empty"), emptyText(total));
  const head = byId("metrics").querySelectorAll("caption, colgroup, thead");
  arrange(byId("metrics"), [...head, ...[...shown].map(([source, names]) => sourceBody(source, names))]);
  forgetRows(shown);
  byId("metrics-more").hidden = hidden === 0;
  setText(byId("metrics-more"), `${count(hidden)} more series; filter by name to see them (histogram buckets: type "bucket").`);
}

function emptyText(total) {
  if (state.status?.capabilities?.metrics === false) return "Metrics are turned off in the configuration.";
  if (state.metricsAt === null) return "waiting for data";
  return total === 0 ? "No source has any metrics now." : "No series matches this filter.";
}

/** The series to show, by source: those that match every word, without noise that nobody asked for. */
function choose(words) {
  const shown = new Map();
  let room = MOST_SHOWN;
  let hidden = 0;
  let total = 0;
  const wantsNoise = words.some((word) => word.includes("bucket") || word.includes("created"));
  for (const source of [...state.metrics.keys()].sort(bySource)) {
    const names = [...state.metrics.get(source).keys()].filter((name) => {
      const text = `${source} ${name}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    const wanted = wantsNoise ? names : names.filter((name) => !NOISE.test(name));
    const fitting = wanted.sort().slice(0, room);
    total += state.metrics.get(source).size;
    room -= fitting.length;
    hidden += names.length - fitting.length;
    if (fitting.length > 0) shown.set(source, fitting);
  }
  return { shown, hidden, total };
}

const bySource = (left, right) => SOURCES.indexOf(left) - SOURCES.indexOf(right) || left.localeCompare(right);

function sourceBody(source, names) {
  if (!bodies.has(source)) {
    const head = element("th", "", title(source), element("span", "hint"));
    head.colSpan = 3;
    head.scope = "rowgroup";
    bodies.set(source, { node: element("tbody"), head, headRow: element("tr", "source", head) });
  }
  const { node, head, headRow } = bodies.get(source);
  setText(head.lastElementChild, ` ${count(names.length)}`);
  arrange(node, [headRow, ...names.map((name) => seriesRow(source, name))]);
  return node;
}

const rowKey = (source, name) => `${source} ${name}`;

function seriesRow(source, name) {
  const key = rowKey(source, name);
  if (!rows.has(key)) rows.set(key, buildRow(name));
  const row = rows.get(key);
  const series = state.metrics.get(source).get(name);
  setText(row.value, metric(name, series.value));
  row.value.title = String(series.value);
  drawSparkline(row.spark, series.points, state.metricsTime, SPAN_MS);
  return row.node;
}

function buildRow(name) {
  const [bare, labels] = splitSeries(name);
  const heading = element("th", "", breakable("name", bare));
  heading.scope = "row";
  if (labels) heading.append(element("wbr"), breakable("series-labels", labels));
  const spark = sparkline();
  const value = element("td", "value");
  return { node: element("tr", "", heading, element("td", "spark", spark), value), spark, value };
}

/** A long name that may be broken after its separators. */
const breakable = (className, text) =>
  element("span", className, ...text.split(/(?<=[_:,])/).flatMap((piece) => [piece, element("wbr")]));

function forgetRows(shown) {
  const kept = new Set([...shown].flatMap(([source, names]) => names.map((name) => rowKey(source, name))));
  for (const key of rows.keys()) if (!kept.has(key)) rows.delete(key);
}
