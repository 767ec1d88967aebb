// Numbers, durations and names as people read them. Pure: knows no page and no server.

const ABSENT = "–";
const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 4 });

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** A whole number with separators: 1,000. */
export const count = (value) => (isNumber(value) ? plain.format(value) : ABSENT);

/** "1 token", "2 tokens". */
export const plural = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

/** A rate with one decimal below 100. */
export function rate(value) {
  if (!isNumber(value)) return ABSENT;
  return value < 100 ? value.toFixed(1) : count(value);
}

/** A latency in seconds, as [number, unit]. */
export function latency(seconds) {
  if (!isNumber(seconds)) return [ABSENT, ""];
  const magnitude = Math.abs(seconds);
  if (magnitude < 1e-3) return [fixed(seconds * 1e6, 3), "µs"];
  if (magnitude < 1) return [fixed(seconds * 1e3, 3), "ms"];
  return [fixed(seconds, 3), "s"];
}

/** An age in seconds: 0.4 s, 12 s, 3 min, 2 h. */
export function age(seconds) {
  if (!isNumber(seconds)) return ABSENT;
  if (seconds < 10) return `${Math.max(0, seconds).toFixed(1)} s`;
  return duration(seconds);
}

/** A duration in seconds, in its largest unit. */
export function duration(seconds) {
  if (!isNumber(seconds)) return ABSENT;
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 2 * 86400) return `${Math.floor(whole / 3600)} h`;
  return `${Math.floor(whole / 86400)} days`;
}

/** Bytes with binary units. */
export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let scaled = value;
  let unit = 0;
  while (Math.abs(scaled) >= 1024 && unit < units.length - 1) {
    scaled /= 1024;
    unit += 1;
  }
  return `${fine.format(unit === 0 ? scaled : Number(scaled.toPrecision(3)))} ${units[unit]}`;
}

/** A metric's value; its unit is read from the suffix of the name (Prometheus' naming rules). */
export function metric(series, value) {
  if (value === null) return "not a number";
  if (value === Infinity) return "∞";
  if (value === -Infinity) return "−∞";
  if (!isNumber(value)) return ABSENT;
  const [name] = splitSeries(series);
  if (/(start_time|timestamp)_seconds$/.test(name)) return new Date(value * 1000).toLocaleString("en-GB");
  if (/_tokens_seconds$/.test(name)) return `${number(value)} per s`;
  if (/_bytes(_total|_sum)?$/.test(name)) return bytes(value);
  if (/_seconds$/.test(name) && Math.abs(value) < 60) return value === 0 ? "0 s" : latency(value).join(" ");
  if (/_seconds(_total|_sum)?$/.test(name)) return `${number(value)} s`;
  return number(value);
}

/** A gauge or counter without a unit. */
export function number(value) {
  if (!isNumber(value)) return ABSENT;
  const magnitude = Math.abs(value);
  if (magnitude >= 1e7) return compact.format(value);
  if (Number.isInteger(value)) return plain.format(value);
  return magnitude > 0 && magnitude < 1e-3 ? value.toExponential(2) : fine.format(value);
}

/** "name{labels}" as [name, labels]. */
export function splitSeries(series) {
  const brace = series.indexOf("{");
  return brace < 0 ? [series, ""] : [series.slice(0, brace), series.slice(brace)];
}

/** "embedded_model" as "Embedded model"; a name with a hyphen is a proper name and stays. */
export function title(name) {
  if (name.includes("-")) return name;
  const words = name.replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

function fixed(value, digits) {
  return Number(value.toPrecision(digits)).toString();
}

/** The tone of an alert's severity label: every word that people use for it, in one place. */
export function severityTone(severity) {
  const word = String(severity ?? "").toLowerCase();
  if (/^(critical|crit|error|fatal|emergency|page|high|p1|sev1)$/.test(word)) return "bad";
  if (/^(info|information|none|low|notice|debug|ok|p4|p5)$/.test(word)) return "idle";
  return "warn";
}

/** A value as a chart's axis or its readout has it; `unit` is "count", "rate" or "seconds". */
export function measured(value, unit) {
  if (!isNumber(value)) return ABSENT;
  if (unit === "seconds") return value === 0 ? "0 s" : latency(value).join(" ");
  if (unit === "rate") return value === 0 ? "0" : rate(value);
  return Number.isInteger(value) ? count(value) : fine.format(Number(value.toPrecision(3)));
}

/** Round numbers for an axis from 0 to at least `top`, at most `most` of them after 0. */
export function ticks(top, most = 3, whole = false) {
  const least = top / most;
  const power = 10 ** Math.floor(Math.log10(least));
  let step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= least * 0.999) ?? 10 * power;
  if (whole) step = Math.max(1, Math.ceil(step));
  const found = [];
  for (let index = 0; index <= Math.ceil(top / step - 1e-9); index += 1) found.push(Number((index * step).toPrecision(12)));
  return found;
}

/** The clock time of seconds since 1970, with seconds or without. */
export function clock(seconds, fineGrained = true) {
  const moment = new Date(seconds * 1000);
  const two = (value) => String(value).padStart(2, "0");
  const short = `${two(moment.getHours())}:${two(moment.getMinutes())}`;
  return fineGrained ? `${short}:${two(moment.getSeconds())}` : short;
}

/** Whether a series is a counter: it only rises, and what it says is how fast. */
export const isCounter = (series) => /_(total|count|sum|bucket)$/.test(splitSeries(series)[0]);
