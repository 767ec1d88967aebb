// Numbers, words and places: what the page computes without a page.

import assert from "node:assert/strict";
import { test } from "node:test";

import { clock, isCounter, measured, metric, severityTone, ticks } from "../../streaming_api/static/format.js";

test("every severity word has one tone", () => {
  for (const word of ["critical", "Error", "page", "FATAL"]) assert.equal(severityTone(word), "bad");
  for (const word of ["warning", "medium", "whatever", "", undefined]) assert.equal(severityTone(word), "warn");
  for (const word of ["info", "none"]) assert.equal(severityTone(word), "idle");
});

test("the infinities are numbers and null is none", () => {
  assert.equal(metric("x", Infinity), "∞");
  assert.equal(metric("x", -Infinity), "−∞");
  assert.equal(metric("x", null), "not a number");
});

test("an axis has round numbers up to above its greatest value", () => {
  assert.deepEqual(ticks(12), [0, 5, 10, 15]);
  assert.deepEqual(ticks(0.9, 3), [0, 0.5, 1]);
  assert.deepEqual(ticks(2, 3, true), [0, 1, 2]);
  for (const top of [1e-4, 0.3, 1, 7, 99, 1234, 1e6]) {
    const found = ticks(top);
    assert.ok(found.at(-1) >= top && found.length <= 5, `${top}: ${found}`);
  }
});

test("values have their unit", () => {
  assert.equal(measured(0.0123, "seconds"), "12.3 ms");
  assert.equal(measured(0, "rate"), "0");
  assert.equal(measured(3.14, "rate"), "3.1");
  assert.equal(measured(1200, "count"), "1,200");
  assert.equal(measured(null, "count"), "–");
});

test("a counter is told by its name", () => {
  assert.ok(isCounter('http_requests_total{code="200"}'));
  assert.ok(!isCounter("queue_length"));
});

test("a clock has two digits each", () => {
  assert.match(clock(0), /^\d\d:\d\d:\d\d$/);
  assert.match(clock(0, false), /^\d\d:\d\d$/);
});
