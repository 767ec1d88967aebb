// The wall: the first screen for a room. Stays awake, never pauses, and comes back by itself.

/** Keeps the screen on for as long as the page is shown. */
export function startWall() {
  keepAwake();
  document.addEventListener("visibilitychange", keepAwake);
}

async function keepAwake() {
  if (document.hidden || !("wakeLock" in navigator)) return;
  try {
    await navigator.wakeLock.request("screen");
  } catch {
    // Not allowed here (plain http, or power is low): the screen then does what it is set to.
  }
}
