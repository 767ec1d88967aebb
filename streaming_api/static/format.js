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

/** A share in percent, already in percent: 99.94 becomes 99.9 %; only a true 100 is called 100 %. */
export function percent(value) {
  if (!isNumber(value)) return ABSENT;
  if (value === 100) return "100 %";
  return `${(Math.floor(value * 10) / 10).toFixed(1)} %`;
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
