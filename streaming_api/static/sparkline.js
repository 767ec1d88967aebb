// A small line of recent values, drawn as SVG: a step line, because a value holds until the next one.

import { svg } from "./dom.js";

const WIDTH = 96;
const HEIGHT = 24;
const PAD = 2;
const SHORTEST_MS = 20_000;

/** An empty sparkline. It is decoration: the value stands beside it as text. */
export function sparkline() {
  const path = svg("path", { d: "" });
  const node = svg("svg", {
    class: "sparkline",
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    preserveAspectRatio: "none",
    "aria-hidden": "true",
  });
  node.append(path);
  return node;
}

/** Draws points [{time, value}] of the last `span` milliseconds before `now`; while there are fewer, wider. */
export function drawSparkline(node, points, now, span) {
  const known = points.length > 0 ? now - points[0].time : 0;
  const shown = Math.min(span, Math.max(SHORTEST_MS, known));
  node.firstElementChild.setAttribute("d", stepPath(points, now, shown));
}

function stepPath(points, now, span) {
  const values = points.map(({ value }) => value).filter(Number.isFinite);
  if (values.length === 0) return "";
  const low = Math.min(...values);
  const range = Math.max(...values) - low;
  const x = (time) => round(Math.max(0, Math.min(1, 1 - (now - time) / span)) * WIDTH);
  const y = (value) => round(range === 0 ? HEIGHT / 2 : HEIGHT - PAD - ((value - low) / range) * (HEIGHT - 2 * PAD));
  let path = "";
  let drawing = false;
  for (const { time, value } of points) {
    if (!Number.isFinite(value)) {
      if (drawing) path += `H${x(time)}`;
      drawing = false;
    } else {
      path += drawing ? `H${x(time)}V${y(value)}` : `M${x(time)} ${y(value)}`;
      drawing = true;
    }
  }
  return drawing ? `${path}H${WIDTH}` : path;
}

const round = (number) => Math.round(number * 10) / 10;
