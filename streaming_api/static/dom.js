// Building the page's elements. Text only ever goes in as text: what the server relays is hostile.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element with a class and children; strings become text nodes. */
export function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** An SVG element with attributes. */
export function svg(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** A name that may be broken where its words meet: KubePodNotReady, http_requests_total. */
export const breakable = (tag, className, text) =>
  element(tag, className, ...text.split(/(?<=[_:,.])|(?<=[a-z0-9])(?=[A-Z])/).flatMap((piece) => [piece, element("wbr")]));

/** Sets text, and touches the document only when it differs. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Sets the tone (ok, warn, bad, idle) that colours an element. */
export function setTone(node, tone) {
  if (node.dataset.tone !== tone) node.dataset.tone = tone;
}

/** A word in its colour: state is shown by both. */
export function pill(text, tone) {
  const made = element("span", "pill", text);
  made.dataset.tone = tone;
  return made;
}

/** Makes the children of a parent these nodes, in this order, and leaves those that are right alone. */
export function arrange(parent, nodes) {
  nodes.forEach((node, index) => {
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] ?? null);
  });
  while (parent.children.length > nodes.length) parent.lastElementChild.remove();
}

/** A button that does something. */
export function button(id, className, text, act) {
  const made = element("button", className, text);
  made.type = "button";
  if (id) made.id = id;
  made.addEventListener("click", act);
  return made;
}

/** An address beside this page, also when a proxy serves it under a path of its own. */
export const beside = (path) => new URL(path, document.baseURI).href;
