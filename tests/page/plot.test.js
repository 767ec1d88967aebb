// What a chart computes: axes, windows, paths that break, and gaps.

import assert from "node:assert/strict";
import { test } from "node:test";

import { gapsOf, pathOf, rowAt, scaleOf, windowOf } from "../../streaming_api/static/plot.js";

const same = (value) => value;

test("a window has one row more on either side", () => {
  assert.deepEqual(windowOf([1, 2, 3, 4, 5, 6], 3, 4), [1, 4]);
  assert.deepEqual(windowOf([1, 2], 0, 9), [0, 1]);
});

test("a path breaks where a value is null", () => {
  assert.equal(pathOf([0, 1, 2, 3, 4], [5, 6, null, 7, 8], [0, 4], same, same), "M0 5L1 6M3 7L4 8");
});

test("a value alone between gaps is still to be seen", () => {
  assert.equal(pathOf([0, 1, 2], [null, 6, null], [0, 2], same, same), "M1 6h.1");
});

test("of many values on one pixel the greatest is drawn", () => {
  const x = (time) => time / 10;
  assert.equal(pathOf([0, 3, 6, 9, 10], [1, 9, 2, 3, 4], [0, 4], x, same), "M0 9L1 4");
});

test("seconds without values are a gap, also at the end, and not before the first that is known", () => {
  const times = [0, 1, 2, 3, 4];
  const known = (row) => row !== 2;
  assert.deepEqual(gapsOf(times, known, [0, 4], 0, 4), [[1, 3]]);
  assert.deepEqual(gapsOf(times, () => true, [0, 4], 0, 60), [[4, 60]]);
  assert.deepEqual(gapsOf([50, 51], () => true, [0, 1], 0, 51), []);
});

test("a logarithmic axis keeps its threshold in sight", () => {
  const scale = scaleOf([0.002, null], { log: true, above: 1 });
  assert.equal(scale.high, 1);
  assert.ok(scale.at(0.1) < 1 && scale.at(0.002) > 0 && scale.at(0.1) > scale.at(0.002));
});

test("an axis without values is one all the same", () => {
  assert.ok(scaleOf([null], {}).high > 0);
});

test("the row under the pointer is the nearest, if one is near", () => {
  assert.equal(rowAt([0, 10, 20], 12), 1);
  assert.equal(rowAt([0, 10, 20], 99), -1);
});
