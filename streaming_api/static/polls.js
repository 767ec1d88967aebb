// The figures that are asked for: /streaming/metrics, /streaming/connections, /streaming/status.

import { RequestFailed, getJson } from "./api.js";
import { changed, state } from "./store.js";
import { remember } from "./topics.js";

const PERIOD_MS = 1000;
const CONNECTIONS_EVERY = 2;
const STATUS_EVERY = 5;

/** Asks once for what the server is and can do; throws RequestFailed. */
export async function readStatus() {
  state.status = await getJson("/streaming/status");
  changed("status");
  return state.status;
}

async function readFigures() {
  state.figures = await getJson("/streaming/metrics");
  state.polledAt.figures = performance.now();
  remember(state.tokenRate, performance.now(), state.figures.tokens_per_second);
  changed("figures");
}

async function readConnections() {
  state.connections = await getJson("/streaming/connections?rows=0");
  state.polledAt.connections = performance.now();
  changed("connections");
}

/** Polls as long as mayPoll() says so; a failed poll shows as age, and a refused key goes to onRefused. */
export async function pollForever(mayPoll, onRefused) {
  for (let round = 0; ; ) {
    if (mayPoll() && !document.hidden) await poll(round++, onRefused);
    await pause(PERIOD_MS);
  }
}

async function poll(round, onRefused) {
  const due = [readFigures()];
  if (round % CONNECTIONS_EVERY === 0) due.push(readConnections());
  if (round % STATUS_EVERY === 0) due.push(readStatus());
  const outcomes = await Promise.allSettled(due);
  const problems = outcomes.flatMap(({ reason }) => reason ?? []);
  state.pollProblem = problems[0]?.message ?? "";
  for (const problem of problems) {
    if (!(problem instanceof RequestFailed)) reportError(problem);
    else if (problem.status === 401) onRefused(problem.message);
  }
}

let wake = () => {};
document.addEventListener("visibilitychange", () => wake());

/** Polls at once instead of when the period is over. */
export const pollNow = () => wake();

const pause = (milliseconds) =>
  new Promise((resolve) => {
    wake = resolve;
    setTimeout(resolve, milliseconds);
  });
