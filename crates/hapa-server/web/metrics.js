// Prometheus' text: parsing it, and quantiles of what came in between two readings.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ([^ ]+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

/** `Map` from a name to its samples `{ labels, value }`. */
export function parse(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    if (line === "" || line.startsWith("#")) continue;
    const match = LINE.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(LABEL)) labels[name] = value;
    if (!found.has(match[1])) found.set(match[1], []);
    found.get(match[1]).push({ labels, value: number(match[3]) });
  }
  return found;
}

const number = (text) => (text === "+Inf" ? Infinity : text === "-Inf" ? -Infinity : Number(text));

/** The sum of all samples of a name that pass. */
export const sum = (metrics, name, passes = () => true) =>
  (metrics.get(name) ?? []).filter(({ labels }) => passes(labels)).reduce((all, { value }) => all + value, 0);

/** A histogram's cumulative counts by upper bound, over all its series that pass. */
export function buckets(metrics, name, passes = () => true) {
  const counts = new Map();
  for (const { labels, value } of metrics.get(`${name}_bucket`) ?? []) {
    if (!passes(labels)) continue;
    const bound = number(labels.le);
    counts.set(bound, (counts.get(bound) ?? 0) + value);
  }
  return [...counts].sort(([a], [b]) => a - b);
}

/** Counts of `later` that are not in `earlier`. */
export function since(later, earlier) {
  const before = new Map(earlier);
  return later.map(([bound, value]) => [bound, value - (before.get(bound) ?? 0)]);
}

/** The quantile as Prometheus' `histogram_quantile` has it: linear within a bucket. NaN when nothing came in. */
export function quantile(q, counts) {
  const total = counts.at(-1)?.[1] ?? 0;
  if (total <= 0) return NaN;
  const rank = q * total;
  const at = counts.findIndex(([, value]) => value >= rank);
  const [bound, value] = counts[at];
  const [low, below] = at > 0 ? counts[at - 1] : [0, 0];
  if (bound === Infinity) return low;
  return value === below ? bound : low + (bound - low) * ((rank - below) / (value - below));
}
