// Folding topic messages (metrics, alerts, status) into the store: a snapshot replaces, a change changes.

import { changed, state } from "./store.js";

const KEPT_MS = 120_000;

/** Takes one message of a topic. */
export function foldTopic(message) {
  const { data } = message;
  if (message.message_type === "metrics_update") foldMetrics(data, Date.parse(message.timestamp));
  else if (message.message_type === "alert") foldAlerts(data);
  else if (message.message_type === "status_update") foldStatus(data);
}

function foldMetrics({ event, values = {}, removed = {} }, time) {
  if (event !== "snapshot" && event !== "changed") return;
  if (event === "snapshot") state.metrics.clear();
  for (const [source, series] of Object.entries(values)) {
    if (!state.metrics.has(source)) state.metrics.set(source, new Map());
    const known = state.metrics.get(source);
    for (const [name, value] of Object.entries(series)) record(known, name, value, time);
  }
  for (const [source, names] of Object.entries(removed)) {
    for (const name of names) state.metrics.get(source)?.delete(name);
  }
  state.metricsAt = performance.now();
  state.metricsTime = time;
  changed("metrics");
}

function record(known, name, value, time) {
  const series = known.get(name);
  if (!series) known.set(name, { value, points: [{ time, value }] });
  else {
    series.value = value;
    remember(series.points, time, value);
  }
}

/** Appends a point and forgets those that are out of the window, but one, from which the line comes. */
export function remember(points, time, value) {
  points.push({ time, value });
  while (points.length > 2 && points[1].time < time - KEPT_MS) points.shift();
}

function foldAlerts({ event, alerts, alert }) {
  if (event === "snapshot") {
    state.alerts.clear();
    for (const each of alerts) keep(each);
  } else if (["firing", "pending", "resolved"].includes(event)) keep(alert);
  else return;
  state.alertsKnown = true;
  changed("alerts");
}

function keep(alert) {
  const key = `${alert.source}/${alert.fingerprint}`;
  if (alert.state === "resolved") state.alerts.delete(key);
  else state.alerts.set(key, alert);
}

function foldStatus({ event, components, component, status }) {
  if (event === "snapshot") state.components = new Map(Object.entries(components));
  else if (event === "changed") state.components.set(component, status);
  else return;
  state.componentsKnown = true;
  changed("components");
}
