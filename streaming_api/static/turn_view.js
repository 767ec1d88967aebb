// One turn of a conversation as nodes, which grow with its answer.

import { describeCost, describeEnding, describePace, framesOf } from "./conversation.js";
import { arrange, button, element, setText, setTone } from "./dom.js";
import { copyText, Growing } from "./markdown.js";

const SLOW_TAIL = 20_000;
const SLOW_MS = 400;

/** The nodes of one turn. */
export function turnView(turn, askAgain, editAgain) {
  const who = element("h2", "who");
  const thoughts = element("p", "thoughts");
  const reasoning = element("details", "reasoning", element("summary", "", "Reasoning"), thoughts);
  thoughts.dir = "auto";
  const answer = element("div", "text prose");
  const growing = new Growing(answer);
  const notes = element("ul", "notes");
  const ending = element("p", "ending");
  const tools = element("p", "tools");
  const frames = element("pre", "frames");
  const raw = element("details", "raw", element("summary", "", "Messages as they came"), frames);
  frames.tabIndex = 0;
  raw.addEventListener("toggle", () => raw.open && setText(frames, framesOf(turn).join("\n") || "They are not kept over a reload."));
  const asked = element("p", "text", turn.question);
  asked.dir = "auto";
  const question = element("div", "said asked", element("h2", "hidden", "You"), asked);
  question.hidden = !turn.question;
  const node = element("article", "turn", question, element("div", "said answered", who, notes, reasoning, answer, ending, tools, raw));
  let drawnPhase = "";
  let drawnAt = 0;
  return {
    node,
    draw() {
      if (drawnPhase === "ended") return;
      const writing = turn.phase !== "ended";
      if (writing && turn.answer.length > SLOW_TAIL && performance.now() - drawnAt < SLOW_MS) return;
      drawnAt = performance.now();
      drawnPhase = turn.phase;
      setText(who, turn.answeredBy || turn.model || "Model");
      reasoning.hidden = !turn.reasoning;
      setText(thoughts, turn.reasoning ?? "");
      growing.draw(turn.answer);
      arrange(notes, turn.notes.map((note, index) => notes.children[index] ?? element("li", "", note)));
      node.ariaBusy = String(writing);
      answer.classList.toggle("writing", writing);
      answer.hidden = !turn.answer && !writing;
      if (writing) drawPace(ending, turn);
      else drawEnding(ending, turn);
      drawTools(tools, turn, writing, askAgain, editAgain);
    },
  };
}

function drawPace(node, turn) {
  setTone(node, "idle");
  setText(node, describePace(turn, Date.now()));
}

function drawEnding(node, turn) {
  const { tone, text, code } = describeEnding(turn);
  const cost = describeCost(turn.ending);
  const parts = [text && element("strong", "", text), code && element("code", "", code), cost && element("span", "cost", cost)];
  setTone(node, tone);
  node.replaceChildren(...parts.filter(Boolean).flatMap((part, index) => (index > 0 ? [" ", part] : [part])));
}

function drawTools(node, turn, writing, askAgain, editAgain) {
  const wanted = writing ? "writing" : "ended";
  if (node.dataset.drawn === wanted) return;
  node.dataset.drawn = wanted;
  const copy = button("", "quiet", "Copy", (event) => copyText(turn.answer, event.target));
  const link = button("", "quiet", "Link for another device", (event) => copyText(new URL(`#answer/${turn.id}`, location.href).href, event.target));
  const again = [button("", "quiet", "Retry", () => askAgain(turn)), button("", "quiet", "Edit", () => editAgain(turn))];
  node.replaceChildren(...(writing ? [link] : turn.elsewhere ? [copy] : [copy, ...again]));
}
