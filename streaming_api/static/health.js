// Health of gateway, model, sources and this process; and the three service levels it measures of itself.

import { duration, percent, title } from "./format.js";
import { arrange, byId, element, pill, setText, setTone } from "./dom.js";
import { onChange, secondsSince, state } from "./store.js";

const STATES = {
  up: ["Up", "ok"],
  down: ["Down", "bad"],
  loading: ["Loading", "warn"],
  draining: ["Draining", "warn"],
  absent: ["Absent", "idle"],
};
const LEVELS = [
  ["websocket_performance", "WebSocket messages within 100 ms"],
  ["sse_performance", "SSE messages within 100 ms"],
  ["connection_stability", "Connections without a fault of ours"],
];
const rows = new Map();

/** Wires both panels. */
export function startHealth() {
  onChange(["components", "status"], drawHealth);
  onChange(["figures"], drawLevels);
}

function drawHealth() {
  const known = state.componentsKnown ? state.components : new Map(Object.entries(state.status?.components ?? {}));
  byId("health-empty").hidden = known.size > 0;
  const nodes = [...known].sort(worstFirst).map(([name, component]) => {
    if (!rows.has(name)) rows.set(name, componentRow(name));
    rows.get(name).draw(component);
    return rows.get(name).node;
  });
  arrange(byId("health"), nodes);
}

const ORDER = ["down", "loading", "draining", "up", "absent"];
const worstFirst = ([leftName, left], [rightName, right]) =>
  ORDER.indexOf(left.state) - ORDER.indexOf(right.state) || leftName.localeCompare(rightName);

function componentRow(name) {
  const mark = pill("", "idle");
  const since = element("span", "since");
  const reason = element("p", "reason");
  const node = element("li", "component", element("span", "name", title(name)), mark, since, reason);
  return {
    node,
    draw(component) {
      const [word, tone] = STATES[component.state] ?? [component.state, "warn"];
      setText(mark, word);
      setTone(mark, tone);
      const seconds = component.since ? secondsSince(component.since) : null;
      setText(since, seconds === null ? "" : `for ${duration(seconds)}`);
      reason.hidden = !component.reason;
      setText(reason, component.reason ?? "");
    },
  };
}

function drawLevels() {
  arrange(byId("levels"), LEVELS.map(([key, label]) => levelRow(key, label)));
}

const levelRows = new Map();

function levelRow(key, label) {
  if (!levelRows.has(key)) {
    const value = element("span", "value");
    const detail = element("span", "detail");
    levelRows.set(key, { node: element("li", "level", element("span", "name", label), value, detail), value, detail });
  }
  const { node, value, detail } = levelRows.get(key);
  const level = state.figures[key];
  const measured = typeof level.percent === "number";
  const met = measured && level.percent >= level.target;
  setTone(node, !measured ? "idle" : met ? "ok" : "bad");
  setText(value, measured ? percent(level.percent) : "–");
  const verdict = `${met ? "target" : "below the target of"} ${level.target} %`;
  setText(detail, measured ? verdict : level.reason || "not measured yet");
  return node;
}
