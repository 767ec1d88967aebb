// Markdown as models write it, made of text nodes: a parser that knows no page, and a builder that makes elements.

import { element } from "./dom.js";

const DEEPEST = 12;
const FENCE = /^ {0,3}(```+|~~~+)\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^ {0,3}>\s?(.*)$/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

/** The blocks of a text, each with the line it starts on: [{type, line, ...}]. Pure. */
export function blocksOf(text, depth = 0) {
  if (depth > DEEPEST) return [{ type: "paragraph", text, line: 0 }];
  const lines = text.split("\n");
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    const [block, next] = blockAt(lines, at, depth);
    if (block) blocks.push({ ...block, line: at });
    at = next;
  }
  return blocks;
}

function blockAt(lines, at, depth) {
  const line = lines[at];
  if (!line.trim()) return [null, at + 1];
  const fence = FENCE.exec(line);
  if (fence) return codeAt(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) return [{ type: "heading", level: heading[1].length, text: heading[2] }, at + 1];
  if (RULE.test(line)) return [{ type: "rule" }, at + 1];
  if (line.includes("|") && at + 1 < lines.length && lines[at + 1].includes("-") && DIVIDER.test(lines[at + 1])) return tableAt(lines, at);
  if (ITEM.test(line)) return listAt(lines, at, depth);
  if (QUOTE.test(line)) return quoteAt(lines, at, depth);
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !startsBlock(lines[end])) end += 1;
  return [{ type: "paragraph", text: lines.slice(at, end).join("\n") }, end];
}

const startsBlock = (line) => FENCE.test(line) || HEADING.test(line) || RULE.test(line) || ITEM.test(line) || QUOTE.test(line);

function codeAt(lines, at, [, fence, language]) {
  let end = at + 1;
  while (end < lines.length && !(lines[end].trim().startsWith(fence) && !lines[end].trim().slice(fence.length).replaceAll(fence[0], ""))) end += 1;
  return [{ type: "code", language, text: lines.slice(at + 1, end).join("\n"), closed: end < lines.length }, end + 1];
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));

function tableAt(lines, at) {
  const head = cells(lines[at]);
  const align = cells(lines[at + 1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "end") : "start"));
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|") && lines[end].trim()) end += 1;
  return [{ type: "table", head, align, rows: lines.slice(at + 2, end).map(cells) }, end];
}

function quoteAt(lines, at, depth) {
  let end = at;
  const inside = [];
  while (end < lines.length && QUOTE.test(lines[end])) inside.push(QUOTE.exec(lines[end++])[1]);
  return [{ type: "quote", blocks: blocksOf(inside.join("\n"), depth + 1) }, end];
}

function listAt(lines, at, depth) {
  const [, indent, marker] = ITEM.exec(lines[at]);
  const ordered = /\d/.test(marker);
  const items = [];
  let end = at;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]);
    if (!item || item[1].length > indent.length + 1 || item[1].length < indent.length || /\d/.test(item[2]) !== ordered) break;
    const inside = [item[3]];
    const inner = item[0].length - item[3].length;
    end += 1;
    while (end < lines.length && belongs(lines, end, indent.length, inner)) inside.push(lines[end++].replace(new RegExp(`^\\s{0,${inner}}`), ""));
    items.push(blocksOf(inside.join("\n").trimEnd(), depth + 1));
  }
  return [{ type: "list", ordered, start: ordered ? Number.parseInt(marker, 10) : 1, items }, end];
}

/** Whether a line goes on with the item before it: indented, or empty before one that is. */
function belongs(lines, at, indent, inner) {
  const line = lines[at];
  const depth = line.length - line.trimStart().length;
  if (!line.trim()) return at + 1 < lines.length && lines[at + 1].length - lines[at + 1].trimStart().length >= inner && Boolean(lines[at + 1].trim());
  if (depth > indent + 1) return true;
  return !startsBlock(line) && Boolean(lines[at - 1].trim());
}

// Inside a line

// What may stand between marks is bounded, so that no text takes more than a pass over it.
const INLINE =
  /(`+)([^`][\s\S]{0,1000}?|[^`])\1(?!`)|\*\*(?=\S)([\s\S]{0,600}?\S)\*\*(?!\*)|__(?=\S)([\s\S]{0,600}?\S)__(?!\w)|\*(?=[^\s*])([\s\S]{0,600}?[^\s*])\*(?!\*)|(?<!\w)_(?=[^\s_])([\s\S]{0,600}?[^\s_])_(?!\w)|~~(?=\S)([\s\S]{0,600}?\S)~~|\[([^\]\n]{0,300})\]\((\S{1,600}?)(?:\s+"[^"]{0,200}")?\)|(https?:\/\/[^\s<>"')\]]{1,600}[^\s<>"')\].,;:!?])|\\([\\`*_{}[\]()#+\-.!|~>])/;

/** The spans of a text: [string | {type, spans} | {type: "code", text} | {type: "link", spans, address}]. Pure. */
export function spansOf(text, depth = 0) {
  const spans = [];
  let rest = text;
  while (rest) {
    const found = depth < 6 ? INLINE.exec(rest) : null;
    if (!found) break;
    if (found.index > 0) spans.push(rest.slice(0, found.index));
    spans.push(spanOf(found, depth + 1));
    rest = rest.slice(found.index + found[0].length);
  }
  if (rest) spans.push(rest);
  return spans;
}

function spanOf(found, depth) {
  const [whole, , code, strong, strong2, emphasis, emphasis2, struck, label, address, bare, escaped] = found;
  if (code !== undefined) return { type: "code", text: code.trim() || code };
  if (strong ?? strong2) return { type: "strong", spans: spansOf(strong ?? strong2, depth) };
  if (emphasis ?? emphasis2) return { type: "em", spans: spansOf(emphasis ?? emphasis2, depth) };
  if (struck) return { type: "del", spans: spansOf(struck, depth) };
  if (bare) return { type: "link", spans: [bare], address: bare };
  if (escaped) return escaped;
  return /^https?:\/\//i.test(address) ? { type: "link", spans: spansOf(label || address, depth), address } : whole;
}

// Elements

function inline(text) {
  return spansOf(text).map(spanNode);
}

function spanNode(span) {
  if (typeof span === "string") return document.createTextNode(span);
  if (span.type === "code") return element("code", "", span.text);
  if (span.type !== "link") return element(span.type, "", ...span.spans.map(spanNode));
  const link = element("a", "", ...span.spans.map(spanNode));
  link.href = span.address;
  link.target = "_blank";
  link.rel = "noopener noreferrer";
  return link;
}

const builders = {
  heading: ({ level, text }) => element(`h${Math.min(6, level + 2)}`, "", ...inline(text)),
  rule: () => element("hr"),
  paragraph: ({ text }) => element("p", "", ...inline(text)),
  quote: ({ blocks }) => element("blockquote", "", ...blocks.map(blockNode)),
  code: codeNode,
  list: listNode,
  table: tableNode,
};

function blockNode(block) {
  const node = builders[block.type](block);
  node.dir = "auto";
  return node;
}

function codeNode({ language, text }) {
  const copy = element("button", "copy", "Copy");
  copy.type = "button";
  const code = element("code", "", text);
  const pre = element("pre", "", code);
  pre.tabIndex = 0;
  copy.addEventListener("click", () => copyText(code.textContent, copy));
  return element("div", "code-block", element("div", "code-head", element("span", "", language || "text"), copy), pre);
}

function listNode({ ordered, start, items }) {
  const list = element(ordered ? "ol" : "ul");
  if (ordered && start !== 1) list.start = start;
  for (const blocks of items) {
    const tight = blocks.length > 0 && blocks[0].type === "paragraph";
    const first = tight ? inline(blocks[0].text) : [];
    list.append(element("li", "", ...first, ...blocks.slice(tight ? 1 : 0).map(blockNode)));
  }
  return list;
}

function tableNode({ head, align, rows }) {
  const row = (tag, texts) => element("tr", "", ...head.map((_, index) => {
    const cell = element(tag, `to-${align[index] ?? "start"}`, ...inline(texts[index] ?? ""));
    if (tag === "th") cell.scope = "col";
    return cell;
  }));
  const table = element("table", "", element("thead", "", row("th", head)), element("tbody", "", ...rows.map((texts) => row("td", texts))));
  const box = element("div", "table-box", table);
  box.tabIndex = 0;
  return box;
}

/** Copies a text, and says on the button that it is done. */
export async function copyText(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = copyOldWay(text) ? "Copied" : "Cannot copy here";
  }
  setTimeout(() => (button.textContent = before), 1500);
}

// Over plain http a browser has no clipboard for scripts, but still this.
function copyOldWay(text) {
  const box = element("textarea", "hidden");
  box.value = text;
  document.body.append(box);
  const focused = document.activeElement;
  box.select();
  const done = document.execCommand("copy");
  box.remove();
  focused?.focus();
  return done;
}

/** Shows a text that grows: only its last block is built again. */
export class Growing {
  #node;
  #text = "";
  #finished = 0;
  #kept = 0;

  constructor(node) {
    this.#node = node;
  }

  draw(text) {
    if (text === this.#text) return;
    if (!text.startsWith(this.#text.slice(0, this.#finished))) this.#reset();
    this.#text = text;
    const tail = text.slice(this.#finished);
    const blocks = blocksOf(tail);
    if (this.#growCode(blocks)) return;
    while (this.#node.children.length > this.#kept) this.#node.lastElementChild.remove();
    this.#node.append(...blocks.map(blockNode));
    if (blocks.length < 2) return;
    const lines = tail.split("\n").slice(0, blocks.at(-1).line);
    this.#finished += lines.join("\n").length + 1;
    this.#kept = this.#node.children.length - 1;
  }

  /** A code block that is being written only gets more text. */
  #growCode(blocks) {
    const last = this.#node.lastElementChild;
    if (blocks.length !== 1 || blocks[0].type !== "code" || this.#node.children.length !== this.#kept + 1) return false;
    if (!last.classList.contains("code-block")) return false;
    const node = last.querySelector("pre code").firstChild;
    if (last.querySelector(".code-head span").textContent !== (blocks[0].language || "text")) return false;
    if (!node || !blocks[0].text.startsWith(node.data)) return false;
    node.appendData(blocks[0].text.slice(node.length));
    return true;
  }

  #reset() {
    this.#node.replaceChildren();
    this.#finished = this.#kept = 0;
  }
}
