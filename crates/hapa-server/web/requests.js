// The last requests, each with where its time went; one of them as a waterfall.
import { $, el, seconds, clock, count, rate } from "./format.js";
import { ask, json } from "./api.js";
import { bar, outcome, outcomeTone, STAGES } from "./receipt.js";
import * as problem from "./problem.js";

const PERIOD_MS = 2000;
const TONES = Object.fromEntries(STAGES.map(([name, tone]) => [name, tone]));
TONES.prefill_chunk = "prefill";

let timer = null;
let visible = false;
let chosen = null;
let drawn = "";

export function start() {
  for (const [, tone, label] of STAGES) $("legend").append(el("li", {}, el("span", { class: `swatch s-${tone}` }), label));
  $("trace-download").addEventListener("click", download);
}

export function show(id) {
  visible = true;
  drawn = "";
  chosen = id ?? chosen;
  tick(Boolean(id));
}

export function hide() {
  visible = false;
  clearTimeout(timer);
}

async function tick(focus = false) {
  clearTimeout(timer);
  if (!visible) return;
  try {
    const { requests } = await json("/api/v1/traces");
    problem.clear(null, $("requests-problem"));
    draw(requests, focus);
  } catch (error) {
    if (error.status > 0) problem.show(error, { notice: $("requests-problem") });
    if (error.status === 401 || error.status === 403) return;
  }
  if (visible) timer = setTimeout(tick, PERIOD_MS);
}

/** The stage that is the request as a whole. */
const whole = (request) => request.stages?.find((stage) => stage.name === "request");

/** Time of each stage, over all parts. */
function totals(request) {
  const sums = new Map();
  for (const { name, duration_seconds: took } of request.stages ?? []) sums.set(name, (sums.get(name) ?? 0) + took);
  return STAGES.map(([name, tone, label]) => [tone, label, sums.get(name) ?? 0]);
}

function draw(requests, focus) {
  const signature = JSON.stringify([requests.map((request) => request.request_id), chosen]);
  if (signature === drawn) return;
  drawn = signature;
  $("requests-empty").hidden = requests.length > 0;
  $("requests-frame").hidden = requests.length === 0;
  const columns = [["Time"], ["Route"], ["Status"], ["Took", "num"], ["Cache"], ["Tokens", "num"], ["Tokens/s", "num"], ["Stages", "grow"]];
  const head = el("tr", {}, ...columns.map(([name, tone]) => el("th", { scope: "col", class: tone, text: name })));
  const again = document.activeElement?.closest?.("#requests-table button")?.dataset.id;
  $("requests-table").replaceChildren(el("thead", {}, head), el("tbody", {}, ...requests.map(row)));
  const button = (id) => $("requests-table").querySelector(`button[data-id="${CSS.escape(id)}"]`);
  if (again) button(again)?.focus();
  const request = requests.find((candidate) => candidate.request_id === chosen);
  if (request) waterfall(request);
  else $("trace").hidden = true;
  if (focus && request) $("h-trace").focus();
}

function row(request) {
  const { request_id: id, status } = request;
  const decode = request.stages?.find((stage) => stage.name === "decode");
  const cache = whole(request)?.args.cache;
  const good = status < 400;
  const open = el("button", { type: "button", class: "link", "aria-pressed": String(id === chosen), text: clock(request.started_unix_seconds), "data-id": id, "aria-label": `Timeline of the request at ${clock(request.started_unix_seconds)}` });
  const choose = () => {
    chosen = id;
    drawn = "";
    history.replaceState(null, "", `#requests/${encodeURIComponent(id)}`);
    tick(true);
  };
  const line = el(
    "tr",
    { class: id === chosen ? "chosen" : undefined },
    el("td", {}, open),
    el("td", {}, el("code", { text: request.endpoint.replace(/^\/api\/v1\//, ""), title: request.endpoint })),
    el("td", {}, el("span", { class: `badge ${good ? "plain" : "bad"}`, text: status === 499 ? "left" : String(status), title: status === 499 ? "The client went away before the end" : undefined })),
    el("td", { class: "num", text: seconds(request.duration_seconds) }),
    el("td", {}, cache ? el("span", { class: `badge ${outcomeTone(cache)}`, text: outcome(cache) }) : ""),
    el("td", { class: "num", text: decode ? count(Number(decode.args.tokens)) : "" }),
    el("td", { class: "num", text: decode?.duration_seconds > 0 ? rate(Number(decode.args.tokens) / decode.duration_seconds) : "" }),
    el("td", { class: "grow" }, request.stages?.length ? bar(totals(request), request.duration_seconds) : ""),
  );
  line.addEventListener("click", choose);
  return line;
}

function waterfall(request) {
  const rows = (request.stages ?? []).filter((stage) => stage.name !== "request");
  const end = Math.max(request.duration_seconds, ...rows.map((stage) => stage.start_seconds + stage.duration_seconds), 1e-6);
  $("trace").hidden = false;
  $("h-trace").textContent = `${clock(request.started_unix_seconds)}, ${request.endpoint}, ${seconds(request.duration_seconds)}`;
  $("trace-download").hidden = $("trace-hint").hidden = rows.length === 0;
  if (rows.length === 0) {
    $("waterfall").replaceChildren(el("p", { class: "empty", text: "No stage was recorded: the request was refused before any work." }));
    return;
  }
  const lines = rows.map((stage) => {
    const piece = el("span", { class: `s-${TONES[stage.name] ?? "other"}` });
    piece.style.marginLeft = `${(stage.start_seconds / end) * 100}%`;
    piece.style.width = `${(stage.duration_seconds / end) * 100}%`;
    const noted = Object.entries(stage.args).map(([key, value]) => `${key.replaceAll("_", " ")} ${value}`).join(", ");
    return el(
      "li",
      {},
      el("span", { class: "stage-name", text: stage.name.replaceAll("_", " ") }),
      el("span", { class: "track" }, piece),
      el("span", { class: "stage-time num", text: seconds(stage.duration_seconds) }),
      el("span", { class: "stage-note muted", text: noted }),
    );
  });
  $("waterfall").replaceChildren(el("ol", {}, ...lines), el("p", { class: "hint" }, "Request id ", el("code", { text: request.request_id })));
}

async function download() {
  try {
    const response = await ask(`/api/v1/traces/${encodeURIComponent(chosen)}`);
    const url = URL.createObjectURL(await response.blob());
    const link = el("a", { href: url, download: `hapa-${chosen.replace(/[^\w.-]/g, "_")}.trace.json` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  } catch (error) {
    problem.show(error, { notice: $("requests-problem") });
  }
}
