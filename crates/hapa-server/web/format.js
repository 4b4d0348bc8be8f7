// Figures as text, and elements without markup in strings.

export const $ = (id) => document.getElementById(id);

/** An element with properties (`class`, `text`, `on…`, attributes) and children. */
export function el(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "text") node.textContent = value;
    else if (key === "class") node.className = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** 412 µs, 8.3 ms, 241 ms, 4.21 s, 2 min 5 s. */
export function seconds(value) {
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  if (value < 1e-5) return `${(value * 1e6).toFixed(1)} µs`;
  if (value < 1e-3) return `${(value * 1e6).toFixed(0)} µs`;
  if (value < 0.01) return `${(value * 1e3).toFixed(1)} ms`;
  if (value < 1) return `${(value * 1e3).toFixed(0)} ms`;
  if (value < 10) return `${value.toFixed(2)} s`;
  if (value < 60) return `${value.toFixed(1)} s`;
  return span(value);
}

/** 2 min 5 s, 3 h 12 min, 2 d 4 h: for uptimes. */
export function span(value) {
  const whole = Math.round(value);
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const parts = [];
  let rest = whole;
  for (const [unit, size] of units) {
    const amount = Math.floor(rest / size);
    rest -= amount * size;
    if (amount > 0 || (unit === "s" && parts.length === 0)) parts.push(`${amount} ${unit}`);
    else if (parts.length > 0) break;
    if (parts.length === 2) break;
  }
  return parts.join(" ");
}

export function bytes(value) {
  if (!Number.isFinite(value)) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (value >= 1000 && at < units.length - 1) {
    value /= 1000;
    at += 1;
  }
  return `${at === 0 || value >= 100 ? value.toFixed(0) : value.toPrecision(3)} ${units[at]}`;
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const count = (value) => (Number.isFinite(value) ? whole.format(value) : "–");

/** 630 million, 1.5 billion. */
export function parameters(value) {
  if (!Number.isFinite(value)) return "–";
  return value < 1e9 ? `${(value / 1e6).toFixed(0)} million` : `${(value / 1e9).toPrecision(2)} billion`;
}

/** A rate: 0, 0.4, 7.9, 24. */
export function rate(value) {
  if (!Number.isFinite(value)) return "–";
  return value === 0 ? "0" : value < 10 ? value.toFixed(1) : value.toFixed(0);
}

export const percent = (value) => (Number.isFinite(value) ? `${value < 10 && value > 0 ? value.toFixed(1) : value.toFixed(0)}%` : "–");

export const clock = (unix) =>
  new Date(unix * 1e3).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
