// Markdown: blocks and spans, whatever half of them is there.

import assert from "node:assert/strict";
import { test } from "node:test";

import { blocksOf, spansOf } from "../../streaming_api/static/markdown.js";

const types = (text) => blocksOf(text).map(({ type }) => type);

test("blocks are told apart", () => {
  const text = "# Head\n\npara\nmore\n\n- a\n- b\n\n> said\n\n```js\ncode\n```\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n---\n";
  assert.deepEqual(types(text), ["heading", "paragraph", "list", "quote", "code", "table", "rule"]);
});

test("code is kept letter by letter, and open while it is being written", () => {
  const [block] = blocksOf("```python\n# no heading\n- no list\n\n**no**");
  assert.deepEqual([block.type, block.language, block.text, block.closed], ["code", "python", "# no heading\n- no list\n\n**no**", false]);
});

test("a fence of four holds one of three", () => {
  const [block] = blocksOf("````\n```\n````");
  assert.deepEqual([block.text, block.closed], ["```", true]);
});

test("lists nest, count from where they begin, and hold code", () => {
  const [list] = blocksOf("3. one\n   - inner\n4. two\n\n   ```\n   x\n   ```");
  assert.deepEqual([list.ordered, list.start, list.items.length], [true, 3, 2]);
  assert.equal(list.items[0][1].type, "list");
  assert.equal(list.items[1][1].type, "code");
});

test("a table has its columns and their sides", () => {
  const [table] = blocksOf("a | b\n:-:|--:\n1 \\| x | 2");
  assert.deepEqual([table.head, table.align, table.rows], [["a", "b"], ["center", "end"], [["1 | x", "2"]]]);
});

test("spans are told apart, one inside the other", () => {
  assert.deepEqual(spansOf("a **b *c*** `d*e*`"), ["a ", { type: "strong", spans: ["b ", { type: "em", spans: ["c"] }] }, " ", { type: "code", text: "d*e*" }]);
});

test("only http is a link, and what is no markup stays", () => {
  assert.equal(spansOf("[x](http://e.org/a)")[0].address, "http://e.org/a");
  assert.deepEqual(spansOf("[x](javascript:alert(1))").filter((span) => typeof span !== "string"), []);
  assert.deepEqual(spansOf("2 * 3 * 4 snake_case_name"), ["2 * 3 * 4 snake_case_name"]);
  assert.equal(spansOf("see https://e.org/x.")[1].address, "https://e.org/x");
});

test("hostile text takes no time", () => {
  const began = performance.now();
  for (const part of ["*", "_", "`", "[", "**a", "|", "> ", "- ", "```\n", "~~"]) {
    for (const block of blocksOf(part.repeat(5000))) spansOf(block.text ?? "");
  }
  assert.ok(performance.now() - began < 10_000, `${performance.now() - began} ms`);
});
