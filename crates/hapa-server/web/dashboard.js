// What the server does, read once a second from /stats and /metrics from its first opening on.
import { $, el, seconds, span, bytes, count, parameters, rate, percent } from "./format.js";
import { ask, json } from "./api.js";
import { Tile } from "./chart.js";
import { parse, sum, buckets, since, quantile } from "./metrics.js";
import * as problem from "./problem.js";
import { loadText } from "./status.js";

const PERIOD_MS = 1000;
const KEEP_SECONDS = 300;
/** The axis begins with this much and grows. */
const LEAST_SECONDS = 60;
/** Rates and quantiles are over so many seconds, so that a single request is seen for a while. */
const WINDOW_SECONDS = 10;

const WORK = ({ method }) => method === "POST";

const TILES = {
  requests: { label: "Requests", series: [{ key: "requests", tone: "a" }], format: (v) => `${rate(v)}/s` },
  latency: { label: "Latency", series: [{ key: "p50", label: "median", tone: "a" }, { key: "p99", label: "p99", tone: "b" }], format: seconds },
  first: { label: "First token", series: [{ key: "first50", label: "median", tone: "a" }, { key: "first99", label: "p99", tone: "b" }], format: seconds },
  tokens: { label: "Generated tokens", series: [{ key: "tokens", tone: "a" }], format: (v) => `${rate(v)}/s` },
  running: { label: "In the engine", series: [{ key: "running", label: "running", tone: "a" }, { key: "waiting", label: "waiting", tone: "b" }], format: count },
  cache: { label: "Cache hits", series: [{ key: "hits", tone: "a" }], format: percent, top: 100 },
  kv: { label: "KV pages", series: [{ key: "kv", label: "held", tone: "a" }, { key: "kvCached", label: "reusable", tone: "b" }], format: percent, top: 100 },
  memory: { label: "Resident memory", series: [{ key: "memory", tone: "a" }], format: bytes },
};

const tiles = {};
const readings = [];
const points = [];
let timer = null;
let opened = false;

export function start() {
  for (const [name, options] of Object.entries(TILES)) {
    tiles[name] = new Tile(options);
    $("tiles").append(tiles[name].node);
  }
  document.addEventListener("visibilitychange", () => opened && !document.hidden && tick());
}

/** From its first opening on the dashboard keeps reading, so that it has seen what another view asked for. */
export function show() {
  opened = true;
  tick();
}

async function tick() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    const [stats, text] = await Promise.all([json("/stats"), ask("/metrics", { accept: "text/plain" }).then((r) => r.text())]);
    problem.clear(null, $("dashboard-problem"));
    read(stats, parse(text));
  } catch (error) {
    // The banner speaks for a server that is gone; a missing key stops the questions until there is one.
    if (error.status === 401 || error.status === 403) {
      problem.show(error, { notice: $("dashboard-problem") });
      return;
    }
    if (error.status > 0) problem.show(error, { notice: $("dashboard-problem") });
  }
  timer = setTimeout(tick, PERIOD_MS);
}

function read(stats, metrics) {
  const performance_ = stats.performance_metrics;
  const now = {
    t: performance.now() / 1e3,
    started: stats.uptime_seconds,
    requests: sum(metrics, "api_requests_total", WORK),
    tokens: sum(metrics, "hapa_generated_tokens_total"),
    latency: buckets(metrics, "api_request_duration_seconds", WORK),
    first: buckets(metrics, "hapa_time_to_first_token_seconds"),
    lookups: lookups(performance_),
  };
  // A server that was started again counts from zero.
  if (readings.length > 0 && now.started < readings.at(-1).started) readings.length = points.length = 0;
  readings.push(now);
  const oldest = now.t - KEEP_SECONDS;
  while (readings.length > 2 && readings[1].t < now.t - WINDOW_SECONDS) readings.shift();
  while (points.length > 0 && points[0].t < oldest) points.shift();
  points.push(point(now, readings[0], stats));
  const axis = Math.max(LEAST_SECONDS, now.t - points[0].t);
  const said = notes(stats, metrics);
  for (const [name, tile] of Object.entries(tiles)) tile.draw(points, axis, said[name]);
  facts(stats);
  tables(stats);
}

/** Requests that asked the cache, and those that it answered. */
function lookups({ requests }) {
  const hits = requests.cache_hits + requests.shared;
  return { hits, all: hits + requests.generated };
}

function point(now, before, stats) {
  const time = now.t - before.t;
  const per = (key) => (time > 0 ? (now[key] - before[key]) / time : NaN);
  const engine = stats.performance_metrics.engine;
  const [latency, first] = [since(now.latency, before.latency), since(now.first, before.first)];
  const asked = now.lookups.all - before.lookups.all;
  return {
    t: now.t,
    requests: per("requests"),
    tokens: per("tokens"),
    p50: quantile(0.5, latency),
    p99: quantile(0.99, latency),
    first50: quantile(0.5, first),
    first99: quantile(0.99, first),
    running: engine?.requests_running ?? 0,
    waiting: engine?.requests_waiting ?? 0,
    hits: asked > 0 ? ((now.lookups.hits - before.lookups.hits) / asked) * 100 : NaN,
    kv: engine ? (engine.kv_held_pages / engine.kv_total_pages) * 100 : NaN,
    kvCached: engine ? (engine.kv_cached_pages / engine.kv_total_pages) * 100 : NaN,
    memory: stats.system_info.process.resident_bytes,
  };
}

function notes(stats, metrics) {
  const { requests, cache, engine } = stats.performance_metrics;
  const all = sum(metrics, "api_requests_total", WORK);
  const rejected = sum(metrics, "hapa_rejected_total");
  const drafted = engine?.drafted_tokens ?? 0;
  const lifetime = (name, what) => {
    const value = quantile(0.5, buckets(metrics, name, name.startsWith("api") ? WORK : undefined));
    return Number.isFinite(value) ? `median since the start ${seconds(value)}` : what;
  };
  return {
    requests: `${count(all)} so far, ${count(requests.failed)} failed, ${count(rejected)} turned away`,
    latency: lifetime("api_request_duration_seconds", "no request yet"),
    first: lifetime("hapa_time_to_first_token_seconds", "no generation yet"),
    tokens: engine ? `${count(engine.generated_tokens)} so far${drafted > 0 ? `, ${percent((engine.accepted_tokens / drafted) * 100)} of drafts confirmed` : ""}` : "the model is not loaded",
    running: engine ? `${count(engine.finished_requests)} finished, ${count(engine.cancelled_requests)} cancelled` : "the model is not loaded",
    cache: cache ? `${percent(cache.hit_rate_percent)} since the start, ${seconds(cache.saved_seconds)} saved` : "the cache is off",
    kv: engine ? `${count(engine.kv_held_pages)} held, ${count(engine.kv_cached_pages)} reusable, of ${count(engine.kv_total_pages)} pages` : "the model is not loaded",
    memory: `peak ${bytes(stats.system_info.process.peak_resident_bytes)}`,
  };
}

function pairs(node, rows) {
  node.replaceChildren(...rows.filter(([, value]) => value !== null && value !== undefined).map(([name, value]) => el("div", {}, el("dt", { text: name }), el("dd", { text: value }))));
}

/** The model and its state; of several models each with what it holds and when it was used. */
function served({ model, models }) {
  if (models.length < 2) return [["Model", model.name], ["State", model.state]];
  return models.map((one) => {
    const held = one.bytes > 0 ? `, ${bytes(one.bytes)}` : "";
    const use = one.in_use > 0 ? ", in use" : one.last_used_seconds === null ? "" : `, used ${span(one.last_used_seconds)} ago`;
    const state = one.load?.status === "loading" ? loadText(one.load) : one.load ? `failed to load: ${one.load.error_message}` : one.state;
    return [one.name, `${state}${held}${use}`];
  });
}

function facts(stats) {
  const { model, system_info: system } = stats;
  pairs($("facts"), [
    ...served(stats),
    ["Architecture", model.architecture],
    ["Parameters", model.parameters && parameters(model.parameters)],
    ["Context", model.context_length && `${count(model.context_length)} tokens`],
    ["Backend", model.backend],
    ["Version", stats.version],
    ["Up for", span(stats.uptime_seconds)],
    ["Machine", `${system.os} ${system.arch}, ${system.cpus} ${system.cpus === 1 ? "processor" : "processors"}`],
    ["Processor time", seconds(system.process.cpu_seconds)],
    ["Threads", count(system.process.threads)],
    ["Open files", count(system.process.open_files)],
  ]);
  const engine = stats.performance_metrics.engine;
  if (!engine) return pairs($("engine"), [["State", "The model is not loaded; the first request loads it."]]);
  const reused = engine.prompt_tokens > 0 ? ` (${percent((engine.cached_prompt_tokens / engine.prompt_tokens) * 100)} reused)` : "";
  pairs($("engine"), [
    ["Steps", count(engine.steps)],
    ["Prompt tokens", `${count(engine.prompt_tokens)}${reused}`],
    ["Generated tokens", count(engine.generated_tokens)],
    ["Tokens a step", engine.steps > 0 ? rate(engine.generated_tokens / engine.steps) : null],
    ["Drafted, confirmed", `${count(engine.drafted_tokens)}, ${count(engine.accepted_tokens)}`],
    ["Finished", count(engine.finished_requests)],
    ["Cancelled", count(engine.cancelled_requests)],
    ["Failed", count(engine.failed_requests)],
  ]);
}

/** Fills a table; the first column names the row, the others are figures. */
function table(node, columns, rows, empty) {
  const head = el("tr", {}, ...columns.map((name, index) => el("th", { scope: "col", class: index > 0 && "num", text: name })));
  const body = rows.map(([name, ...cells]) =>
    el("tr", {}, el("th", { scope: "row" }, name), ...cells.map((cell) => el("td", { class: "num" }, cell))),
  );
  if (body.length === 0) body.push(el("tr", {}, el("td", { colspan: String(columns.length), class: "muted", text: empty })));
  node.replaceChildren(el("thead", {}, head), el("tbody", {}, ...body));
}

function meter(part, whole) {
  if (!whole) return bytes(part);
  const track = el("span", { class: "meter", "aria-hidden": "true" }, el("span", {}));
  track.firstChild.style.width = `${Math.min(100, (part / whole) * 100)}%`;
  return el("span", { class: "metered" }, track, `${bytes(part)} of ${bytes(whole)}`);
}

function tables(stats) {
  const cache = stats.performance_metrics.cache;
  const tiers = cache ? [{ name: "memory", ...cache }, ...cache.tiers] : [];
  const rows = tiers.map((tier) => [
    tier.breaker_open ? `${tier.name} (left out)` : tier.name,
    percent(tier.hit_rate_percent),
    count(tier.hits),
    count(tier.misses),
    count(tier.entries),
    meter(tier.bytes, tier.max_bytes),
  ]);
  if (cache?.typed_through) {
    const typed = cache.typed_through;
    const asked = typed.hits + typed.misses;
    rows.push(["typed through", asked > 0 ? percent((typed.hits / asked) * 100) : "–", count(typed.hits), count(typed.misses), count(typed.completions), bytes(typed.bytes)]);
  }
  table($("tiers"), ["Tier", "Hit rate", "Hits", "Misses", "Entries", "Size"], rows, "The cache is off.");
  const endpoints = stats.response_times.map((row) => [
    el("code", { text: `${row.method} ${row.endpoint}` }),
    count(row.count),
    seconds(row.p50_seconds),
    seconds(row.p90_seconds),
    seconds(row.p99_seconds),
    seconds(row.max_seconds),
  ]);
  table($("endpoints"), ["Route", "Count", "p50", "p90", "p99", "Longest"], endpoints, "No request yet.");
  const scopes = stats.scopes.toSorted((a, b) => b.wall_seconds - a.wall_seconds).slice(0, 15);
  table(
    $("scopes"),
    ["Scope", "Calls", "Wall time", "Own time", "p50", "p99"],
    scopes.map((scope) => [el("code", { text: scope.name }), count(scope.calls), seconds(scope.wall_seconds), seconds(scope.self_seconds), seconds(scope.p50_seconds), seconds(scope.p99_seconds)]),
    "No scope yet.",
  );
}
