// A chart: lines over time as SVG, with axes, gaps, marks, a threshold, and the line under the pointer.

import { clock, measured, ticks } from "./format.js";
import { svg } from "./dom.js";

const RIGHT = 8;
const TOP = 8;
const LEFT_EMS = 4.6;
const BOTTOM_EMS = 1.9;
const LABEL_EMS = 6.2;
const SHORT_LABEL_EMS = 4.2;
const MOST_MARKS = 60;
const DECADES = [0.0001, 0.001, 0.01, 0.1, 1, 10];
const X_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800];

/** The least and the greatest y of an axis, as numbers: {low, high, at, ticks}. Pure. */
export function scaleOf(values, { log = false, least = 0, whole = false, above = 0 }) {
  let top = least;
  for (const value of values) if (value !== null && value > top) top = value;
  if (log) {
    const high = DECADES.find((each) => each >= Math.max(top, above)) ?? top;
    const low = 0.00003;
    const at = (value) => (Math.log10(Math.max(value, low)) - Math.log10(low)) / (Math.log10(high) - Math.log10(low));
    return { high, at, ticks: DECADES.filter((each) => each <= high && each > low) };
  }
  const marks = ticks(top > 0 ? top : 1, 3, whole);
  const high = marks.at(-1);
  return { high, at: (value) => value / high, ticks: marks };
}

/** Rows [first, last] of sorted times inside a window, one more on either side. Pure. */
export function windowOf(times, from, to) {
  let low = 0;
  let high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] < from) low = middle + 1;
    else high = middle;
  }
  let last = low;
  while (last < times.length && times[last] <= to) last += 1;
  return [Math.max(0, low - 1), Math.min(times.length - 1, last)];
}

/** A path through the values, broken where one is null: to a pixel column goes its greatest value. Pure. */
export function pathOf(times, values, [first, last], x, y) {
  let path = "";
  let column = null;
  let peak = null;
  let points = 0;
  const flush = () => {
    if (peak === null) return;
    path += `${points > 0 ? "L" : "M"}${column} ${round(y(peak))}`;
    points += 1;
    peak = null;
  };
  const end = () => {
    flush();
    if (points === 1) path += "h.1"; // a value alone between gaps is a dot, by its round ends
    points = 0;
  };
  for (let row = first; row <= last; row += 1) {
    const value = values[row];
    if (value === null || value === undefined) end();
    else {
      const here = round(x(times[row]) - (x(times[row]) % 1));
      if (here !== column) flush();
      column = here;
      peak = peak === null ? value : Math.max(peak, value);
    }
  }
  end();
  return path;
}

/** Where nothing is known inside a window, after the first that is: [[from, to], ...] in seconds. Pure. */
export function gapsOf(times, known, [first, last], from, to) {
  const gaps = [];
  let since = from;
  let broken = true;
  for (let row = first; row <= last; row += 1) {
    if (!known(row)) broken = true;
    else {
      if (broken && row > 0 && times[row] - since > 1) gaps.push([since, Math.min(to, times[row])]);
      since = Math.max(from, times[row]);
      broken = false;
    }
  }
  if (to - since > 3) gaps.push([since, to]);
  return gaps;
}

const round = (number) => Math.round(number * 10) / 10;

/** Makes the nodes of a kind as many as needed, in a group, and gives them one by one. */
function pool(parent, tag, attributes = {}) {
  const nodes = [];
  let used = 0;
  return {
    next() {
      if (used === nodes.length) nodes.push(parent.appendChild(svg(tag, attributes)));
      const node = nodes[used++];
      node.style.display = "";
      return node;
    },
    begin: () => (used = 0),
    end: () => {
      for (const node of nodes.slice(used)) node.style.display = "none";
    },
  };
}

const set = (node, attributes) => {
  for (const [name, value] of Object.entries(attributes)) {
    if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
  }
};

/**
 * A chart of `lines` [{name, tone, area}]. draw(frame) draws what is between frame.from and frame.to; shareAt(x)
 * says where in the window a place on the screen is, 0 to 1.
 */
export function makePlot({ lines, unit, options = {}, threshold = null, empty = "No data in this time" }) {
  const node = svg("svg", { class: "plot", "aria-hidden": "true" });
  const layers = ["gaps", "grid", "areas", "lines", "marks", "hover"].map((name) => node.appendChild(svg("g", { class: name })));
  const [gapLayer, gridLayer, areaLayer, lineLayer, markLayer, hoverLayer] = layers;
  const gapRects = pool(gapLayer, "rect", { class: "gap" });
  const gridLines = pool(gridLayer, "line", { class: "grid-line" });
  const labels = pool(gridLayer, "text", { class: "tick" });
  const markLines = pool(markLayer, "line", { class: "mark" });
  const dots = pool(hoverLayer, "circle", { class: "dot", r: 3 });
  const areas = lines.map((line) => (line.area ? areaLayer.appendChild(svg("path", { class: `area ${line.tone}` })) : null));
  const paths = lines.map((line) => lineLayer.appendChild(svg("path", { class: `line ${line.tone}` })));
  const limit = markLayer.appendChild(svg("line", { class: "threshold" }));
  const pointer = hoverLayer.appendChild(svg("line", { class: "pointer" }));
  const nothing = gridLayer.appendChild(svg("text", { class: "no-data", "text-anchor": "middle" }));
  nothing.textContent = empty;
  const brush = hoverLayer.appendChild(svg("rect", { class: "brush" }));
  let size = { width: 300, height: 150 };
  let em = 11;
  new ResizeObserver(([entry]) => {
    size = entry.contentRect;
    em = Number.parseFloat(getComputedStyle(node).fontSize) || em;
    node.dispatchEvent(new CustomEvent("resized"));
  }).observe(node);

  function draw({ times, columns, from, to, marks, hover, brushed, dashed, known }) {
    const { width, height } = size;
    const LEFT = em * LEFT_EMS;
    const BOTTOM = em * BOTTOM_EMS;
    if (width < LEFT + RIGHT + 20 || height < TOP + BOTTOM + 10) return;
    set(node, { viewBox: `0 0 ${round(width)} ${round(height)}` });
    const span = Math.max(1, to - from);
    const x = (time) => LEFT + ((time - from) / span) * (width - LEFT - RIGHT);
    const rows = windowOf(times, from, to);
    const inside = columns.flatMap((column) => column.slice(rows[0], rows[1] + 1));
    const scale = scaleOf(inside, options);
    const y = (value) => height - BOTTOM - Math.max(0, Math.min(1.02, scale.at(value))) * (height - TOP - BOTTOM);
    const base = round(height - BOTTOM);
    drawGrid(scale, x, y, from, to, width, height, LEFT);
    gapRects.begin();
    for (const [start, end] of gapsOf(times, known, rows, from, to).slice(-20)) {
      set(gapRects.next(), { x: round(x(start)), y: TOP, width: round(Math.max(1, x(end) - x(start))), height: base - TOP });
    }
    gapRects.end();
    columns.forEach((column, index) => {
      const calm = ["warn", "bad"].includes(lines[index].tone) && !column.slice(rows[0], rows[1] + 1).some((value) => value > 0);
      const path = calm ? "" : pathOf(times, column, rows, x, y); // a colour that nothing is the matter with is not drawn
      set(paths[index], { d: path });
      if (areas[index]) set(areas[index], { d: path.split("M").filter(Boolean).map((part) => closed(part, base)).join("") });
    });
    drawMarks(marks, x, from, to, base);
    const knownHere = times.slice(rows[0], rows[1] + 1).some((_, index) => known(rows[0] + index));
    nothing.style.display = knownHere && inside.every((value) => value === null || value === undefined) ? "" : "none";
    set(nothing, { x: round((LEFT + width - RIGHT) / 2), y: round((TOP + base + em) / 2) });
    const line = dashed ?? threshold;
    limit.style.display = line === null || scale.at(line) > 1 ? "none" : "";
    if (line !== null) set(limit, { x1: LEFT, x2: width - RIGHT, y1: round(y(line)), y2: round(y(line)) });
    drawHover(hover, brushed, { times, columns, x, y, base, from, to });
  }

  function closed(part, base) {
    const numbers = part.match(/-?[\d.]+/g);
    const last = part.lastIndexOf("L") < 0 ? numbers[0] : part.slice(part.lastIndexOf("L") + 1).split(" ")[0];
    return `M${numbers[0]} ${base}L${part.replace(/h\.1/g, "")}L${last} ${base}Z`;
  }

  function drawGrid(scale, x, y, from, to, width, height, left) {
    gridLines.begin();
    labels.begin();
    for (const tick of scale.ticks) {
      const at = round(y(tick));
      set(gridLines.next(), { x1: left, x2: width - RIGHT, y1: at, y2: at });
      write(labels.next(), measured(tick, unit === "rate" ? "count" : unit), { x: round(left - em / 2), y: round(at + em * 0.35), "text-anchor": "end" });
    }
    const room = (step) => Math.max(2, Math.floor((width - left) / (em * (step < 60 ? LABEL_EMS : SHORT_LABEL_EMS))));
    const step = X_STEPS.find((each) => (to - from) / each <= room(each)) ?? 3600;
    const zone = new Date(from * 1000).getTimezoneOffset() * 60;
    for (let time = Math.ceil((from - zone) / step) * step + zone; time <= to; time += step) {
      const at = x(time);
      if (at < left + em * 1.2 || at > width - em * 1.6) continue;
      write(labels.next(), clock(time, step < 60), { x: round(at), y: round(height - em * 0.45), "text-anchor": "middle" });
    }
    gridLines.end();
    labels.end();
  }

  function write(label, text, attributes) {
    set(label, attributes);
    if (label.textContent !== text) label.textContent = text;
  }

  function drawMarks(marks, x, from, to, base) {
    markLines.begin();
    for (const mark of marks.slice(-MOST_MARKS)) {
      if (mark.time < from || mark.time > to) continue;
      const at = round(x(mark.time));
      set(markLines.next(), { x1: at, x2: at, y1: TOP, y2: base, "data-tone": mark.tone });
    }
    markLines.end();
  }

  function drawHover(hover, brushed, { times, columns, x, y, base, from, to }) {
    dots.begin();
    const row = hover === null ? -1 : rowAt(times, hover);
    pointer.style.display = hover === null || hover < from || hover > to ? "none" : "";
    if (hover !== null) {
      const at = round(x(hover));
      set(pointer, { x1: at, x2: at, y1: TOP, y2: base });
      columns.forEach((column, index) => {
        const value = row < 0 ? null : column[row];
        if (value === null || value === undefined) return;
        set(dots.next(), { cx: at, cy: round(y(value)), class: `dot ${lines[index].tone}` });
      });
    }
    dots.end();
    brush.style.display = brushed ? "" : "none";
    if (brushed) {
      const [start, end] = brushed.map(x);
      set(brush, { x: round(Math.min(start, end)), y: TOP, width: round(Math.abs(end - start)), height: base - TOP });
    }
  }

  const shareAt = (clientX) => {
    const box = node.getBoundingClientRect();
    const left = em * LEFT_EMS;
    return Math.max(0, Math.min(1, (clientX - box.left - left) / Math.max(1, box.width - left - RIGHT)));
  };
  return { node, draw, shareAt };
}

/** The row whose second a time lies in; -1 if there is none near. Pure. */
export function rowAt(times, time) {
  const [first, last] = windowOf(times, time, time);
  let best = -1;
  for (let row = first; row <= last; row += 1) {
    if (best < 0 || Math.abs(times[row] - time) < Math.abs(times[best] - time)) best = row;
  }
  return best >= 0 && Math.abs(times[best] - time) <= 10 ? best : -1;
}
