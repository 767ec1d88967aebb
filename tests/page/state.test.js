// Messages folded into what the page knows: replays, gaps, restarts, alerts that count.

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { counting, fold, newest, state } from "../../streaming_api/static/state.js";

const NOON = 1_800_000_000;
let number = 0;

const message = (stream, type, data, sequence = ++number) =>
  fold({ message_type: type, stream_id: stream, sequence_id: sequence, timestamp: new Date(NOON * 1000).toISOString(), data });
const history = (data) => message("history", "metrics_update", data);
const alert = (more) => ({ fingerprint: "f", state: "firing", source: "prometheus", sources: ["prometheus"], suppressed: null, labels: { alertname: "A" }, ...more });

beforeEach(() => {
  state.history = { times: [], series: new Map(), marks: [] };
  state.alerts = new Map();
  state.resolved = [];
  state.events = [];
  state.components = new Map();
});

test("a sample names what is new and leaves the rest", () => {
  history({ event: "snapshot", times: [NOON], series: { a: [1], b: [2] }, marks: [] });
  history({ event: "sampled", time: NOON + 1, gap: 0, values: { a: 5 } });
  assert.deepEqual([newest("a"), newest("b")], [5, 2]);
});

test("seconds that are missing are a gap and no line", () => {
  history({ event: "snapshot", times: [NOON], series: { a: [1] }, marks: [] });
  history({ event: "sampled", time: NOON + 9, gap: 0, values: {} });
  assert.deepEqual(state.history.times, [NOON, NOON + 8, NOON + 9]);
  assert.deepEqual(state.history.series.get("a"), [1, null, 1]);
});

test("what led to a restart stays, behind a gap", () => {
  history({ event: "snapshot", times: [NOON, NOON + 1], series: { a: [1, 2] }, marks: [{ time: NOON, event: "started", name: "s" }] });
  history({ event: "snapshot", times: [NOON + 30], series: { a: [7], new: [1] }, marks: [{ time: NOON + 30, event: "started", name: "s" }] });
  assert.deepEqual(state.history.times, [NOON, NOON + 1, NOON + 29, NOON + 30]);
  assert.deepEqual(state.history.series.get("a"), [1, 2, null, 7]);
  assert.deepEqual(state.history.series.get("new"), [null, null, null, 1]);
  assert.equal(state.history.marks.length, 2);
});

test("a replay fills the diary and changes nothing", () => {
  message("alerts", "alert", { event: "snapshot", alerts: [] }, 100);
  message("alerts", "alert", { event: "firing", alert: alert() }, 7);
  message("alerts", "alert", { event: "resolved", alert: alert({ state: "resolved" }) }, 8);
  assert.equal(state.alerts.size, 0);
  assert.equal(state.resolved.length, 1);
  assert.deepEqual(state.events.map(({ kind }) => kind).sort(), ["firing", "resolved"]);
  message("alerts", "alert", { event: "firing", alert: alert() }, 101);
  assert.equal(state.alerts.size, 1);
});

test("alerts of one name that come together are one event that counts them, each once", () => {
  for (const fingerprint of ["x", "y", "z", "z"]) message("alerts", "alert", { event: "firing", alert: alert({ fingerprint }) }, ++number + 1000);
  assert.deepEqual(state.events.map(({ alerts }) => alerts), [["x", "y", "z"]]);
});

test("an alert counts once, unless it is silenced or nobody who is up tells of it", () => {
  const take = (more) => message("alerts", "alert", { event: "firing", alert: alert(more) }, ++number + 1000);
  take({ sources: ["alertmanager", "webhook", "prometheus"] });
  take({ fingerprint: "g", suppressed: "silenced" });
  assert.equal(counting().length, 1);
  state.components.set("prometheus", { state: "down" });
  assert.equal(counting().length, 1, "others still tell of it");
  state.components.set("alertmanager", { state: "down" });
  take({ sources: ["alertmanager", "prometheus"] });
  assert.equal(counting().length, 0);
});

test("an infinity that the wire cannot carry is one again", () => {
  message("metrics", "metrics_update", { event: "changed", values: { process: { a: null, b: null } }, removed: {}, infinite: { process: { a: "+Inf" } } });
  assert.equal(state.metrics.get("process").get("a").value, Infinity);
  assert.equal(state.metrics.get("process").get("b").value, null);
});
