// What the page says: the verdict, the diary, the endings of answers, links of alerts, rates of series.

import assert from "node:assert/strict";
import { test } from "node:test";

import { groupsOf, silenceLink } from "../../streaming_api/static/alerts.js";
import { marksOf } from "../../streaming_api/static/charts.js";
import { oldest } from "../../streaming_api/static/connection.js";
import { asMessages, describeEnding, newTurn, takeMessage } from "../../streaming_api/static/conversation.js";
import { sentenceOf } from "../../streaming_api/static/events.js";
import { choose, rateBetween } from "../../streaming_api/static/series.js";
import { calmDetail, findings } from "../../streaming_api/static/verdict.js";

const known = (more) => ({ components: {}, alerts: [], draining: false, chat: true, since: () => 120, ...more });
const firing = (severity, alertname = "A", source = "prometheus") => ({ labels: { alertname, severity }, source });

test("nothing found is all well", () => assert.deepEqual(findings(known()), []));

test("no answers is the worst there is, and says since when and why once", () => {
  const [first, ...rest] = findings(known({
    components: { prometheus: { state: "down", since: "x" }, gateway: { state: "down", since: "x", reason: "Refused." } },
    alerts: [firing("critical", "UpstreamDown", "streaming-api")],
  }));
  assert.deepEqual(first, { tone: "bad", text: "No answers: the gateway is down", forHow: ", for 2 min", detail: "Refused." });
  assert.deepEqual(rest.map(({ text, forHow }) => text + forHow), ["Prometheus is down, for 2 min"]);
});

test("a single alert says since when and what it is about; several are counted", () => {
  const one = { ...firing("critical", "Hot"), annotations: { summary: "It is hot" }, starts_at: "x" };
  assert.deepEqual(findings(known({ alerts: [one] })), [{ tone: "bad", text: "1 critical alert: Hot", forHow: ", for 2 min", detail: "It is hot." }]);
  assert.equal(findings(known({ alerts: [one, one] }))[0].detail, "");
});

test("what is well is said, and nothing that is not known", () => {
  const up = { state: "up" };
  assert.equal(calmDetail({ components: { a: up, b: up }, alertsKnown: true, silenced: 0 }), "Nothing is firing. All 2 components are up.");
  assert.equal(calmDetail({ components: { a: up, b: up }, alertsKnown: true, silenced: 2 }), "Nothing is firing but 2 silenced alerts. All 2 components are up.");
  assert.equal(calmDetail({ components: { a: up, b: { state: "absent" } }, alertsKnown: false, silenced: 0 }), "");
});

test("alerts are counted by how bad they are, and named", () => {
  const found = findings(known({ alerts: [firing("warning", "W"), firing("critical", "C1"), firing("critical", "C2")] }));
  assert.deepEqual(found.map(({ text }) => text), ["2 critical alerts: C1, C2", "1 warning: W"]);
  assert.equal(found[0].tone, "bad");
});

test("draining is said", () => assert.match(findings(known({ draining: true }))[0].text, /stopping/));

test("alerts are grouped by name, the worst first, and filtered by any word", () => {
  const alerts = [firing("info", "I"), firing("critical", "C"), firing("critical", "C")].map((each, index) => ({ ...each, state: "firing", starts_at: `2026-01-0${index + 1}` }));
  assert.deepEqual(groupsOf(alerts).map(({ name, alerts: all }) => [name, all.length]), [["C", 2], ["I", 1]]);
  assert.deepEqual(groupsOf(alerts, ["severity=info"]).map(({ name }) => name), ["I"]);
});

test("a silence is for exactly these labels, and only at an http address", () => {
  const link = silenceLink({ manager_url: "http://am:9093/", labels: { alertname: 'say "x"' } });
  assert.equal(decodeURIComponent(link.split("filter=")[1]), '{alertname="say \\"x\\""}');
  assert.equal(silenceLink({ manager_url: "javascript:x", labels: {} }), null);
});

test("the diary speaks in sentences", () => {
  const { who, verb, tone } = sentenceOf({ kind: "down", name: "embedded_model" });
  assert.equal(`${who} ${verb}`, "Embedded model is down");
  assert.equal(tone, "bad");
  assert.equal(sentenceOf({ kind: "firing", name: "A", severity: "info" }).tone, "idle");
  assert.equal(sentenceOf({ kind: "firing", name: "A", detail: "Of one.", alerts: ["f", "g"] }).detail, "2 alerts");
});

test("marks of one second are one, in the worst tone", () => {
  const marks = [{ time: 1, event: "firing", name: "A", severity: "info" }, { time: 1, event: "firing", name: "B", severity: "critical" }, { time: 2, event: "up", name: "x" }];
  assert.deepEqual(marksOf(marks).map(({ time, tone, text }) => [time, tone, text]), [[1, "bad", "A fires, B fires"]]);
});

test("a counter's rate is none over a restart", () => {
  assert.equal(rateBetween({ time: 0, value: 10 }, { time: 2000, value: 20 }), 5);
  assert.equal(rateBetween({ time: 0, value: 10 }, { time: 2000, value: 1 }), null);
});

test("of several cursors the oldest is where nothing is missed", () => {
  assert.equal(oldest(["e:9", "e:3"]), "e:3");
  assert.equal(oldest(["e:9", undefined]), "");
  assert.equal(oldest(["e:9", "f:3"]), "");
});

test("each source has a budget of its own", () => {
  const many = Array.from({ length: 5000 }, (_, index) => `many_${index}`);
  const chosen = choose([["exposition", many], ["process", ["fds", "h_bucket{le=\"1\"}"]]], [], () => 60);
  assert.deepEqual([chosen.get("exposition").names.length, chosen.get("exposition").hidden], [60, 4940]);
  assert.deepEqual([chosen.get("process").names, chosen.get("process").hidden], [["fds"], 1]);
});

const ending = (finish_reason, more = {}) => ({ ending: { finish_reason, ...more }, stopWanted: false });

test("an answer's ending says what happened, in a sentence", () => {
  assert.match(describeEnding(ending("abandoned")).text, /Nobody was watching any more.*\.$/);
  assert.match(describeEnding(ending("cancelled")).text, /stopped elsewhere\.$/);
  for (const reason of ["length", "content_filter", "tool_calls", "incomplete", "error", "new_reason"]) {
    assert.match(describeEnding(ending(reason)).text, /^[A-Z].*\.$/);
  }
});

test("an answer without a word is nothing to be content with", () => {
  assert.deepEqual([describeEnding(ending("stop")).tone, describeEnding({ answer: "a", ...ending("stop") }).text], ["warn", ""]);
});

test("reasoning comes under either name and is no answer", () => {
  const turn = newTurn("q", "m");
  let number = 0;
  for (const delta of [{ reasoning_content: "a" }, { reasoning: "b" }, { content: "c" }]) {
    takeMessage(turn, { sequence_id: ++number, data: { choices: [{ delta }] } });
  }
  assert.deepEqual([turn.reasoning, turn.answer, turn.thinking], ["ab", "c", false]);
});

test("a system prompt goes first, and turns without an answer are left out", () => {
  const turns = [{ question: "lost", answer: "", phase: "ended" }, { question: "q", answer: "", phase: "sending" }];
  assert.deepEqual(asMessages(turns, " be brief "), [{ role: "system", content: "be brief" }, { role: "user", content: "q" }]);
});
