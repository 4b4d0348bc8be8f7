// What an answer cost: figures, and one bar of where the time went.
import { el, seconds, count, rate } from "./format.js";

/** Stages in their order, with the class that colours them. */
export const STAGES = [
  ["model_loading", "load", "loading"],
  ["queue", "queue", "queue"],
  ["cache_lookup", "cache", "cache"],
  ["prompt", "prompt", "prompt"],
  ["prefill", "prefill", "prefill"],
  ["decode", "decode", "decode"],
];

const OUTCOMES = {
  "hit-l1": "hit in memory",
  "hit-l2": "hit on disk",
  shared: "shared",
  miss: "miss",
  bypass: "not asked",
};

export const outcome = (name) => OUTCOMES[name] ?? name;

/** Class of a badge for an outcome. */
export const outcomeTone = (name) => (name?.startsWith("hit") || name === "shared" ? "good" : "plain");

/** A bar of `[class, label, seconds]`. */
export function bar(parts, total) {
  const shown = parts.filter(([, , value]) => value > 0);
  const label = shown.map(([, name, value]) => `${name} ${seconds(value)}`).join(", ");
  const track = el("div", { class: "stages", role: "img", "aria-label": label || "no stages" });
  const sum = Math.max(total, shown.reduce((all, [, , value]) => all + value, 0), 1e-9);
  for (const [tone, name, value] of shown) {
    const piece = el("span", { class: `s-${tone}`, title: `${name}: ${seconds(value)}` });
    piece.style.width = `${(value / sum) * 100}%`;
    track.append(piece);
  }
  return track;
}

/** Fills `node` from the body of an answer. */
export function receipt(node, body, requestId) {
  const { usage, cache, timings } = body;
  const decoding = timings.decode_seconds > 0;
  const parts = STAGES.map(([name, tone, label]) => [tone, label, timings[`${name}_seconds`] ?? 0]);
  const cached = usage.cached_tokens > 0 ? `, ${count(usage.cached_tokens)} reused` : "";
  const facts = [
    ["Total", seconds(timings.total_seconds)],
    ["First token", decoding ? seconds(timings.time_to_first_token_seconds) : null],
    ["Speed", decoding ? `${rate(usage.completion_tokens / timings.decode_seconds)} tokens/s` : null],
    ["Answer", `${count(usage.completion_tokens)} tokens`],
    ["Prompt", `${count(usage.prompt_tokens)} tokens${cached}`],
    ["Cache", cache.typed_through ? "typed through" : outcome(cache.outcome)],
    ["Ended", body.finish_reason === "length" ? "at max tokens" : "by itself"],
  ];
  const list = el("dl", { class: "figures" });
  for (const [name, value] of facts) {
    if (value !== null) list.append(el("div", {}, el("dt", { text: name }), el("dd", { text: value })));
  }
  const key = el("ul", { class: "legend" });
  for (const [tone, name, value] of parts.filter(([, , value]) => value > timings.total_seconds * 0.001)) {
    key.append(el("li", {}, el("span", { class: `swatch s-${tone}` }), `${name} ${seconds(value)}`));
  }
  const hit = cache.outcome.startsWith("hit") || cache.outcome === "shared";
  const children = [list];
  if (!hit) children.push(bar(parts, timings.total_seconds), key);
  if (requestId) {
    const link = el("a", { href: `#requests/${encodeURIComponent(requestId)}`, text: "Timeline of this request" });
    children.push(el("p", { class: "hint" }, link));
  }
  node.replaceChildren(...children);
  node.hidden = false;
}
