// Whether the server is there and its model loaded: the pill in the header, the load's progress, the banner.
import { $, bytes } from "./format.js";
import { send, ApiError } from "./api.js";

const STATES = {
  ready: "ready",
  unloaded: "loads with the first request",
  loading: "loading",
  failed: "failed to load",
};

const STEPS = {
  resolving: "Looking for the model",
  waiting: "Another process fetches the model",
  fetching: "Fetching the model",
  verifying: "Verifying the model",
  making_room: "Waiting until another model leaves the memory",
  mapping: "Opening the model",
  packing: "Packing the weights for this machine, once",
  loading: "Loading the model",
  ready: "Starting the model",
};

/** Stages whose progress counts bytes. */
const IN_BYTES = ["waiting", "fetching", "verifying"];

export const state = { name: "unknown", progress: null, stage: null };
const waiters = new Set();
let failures = 0;
let timer = null;

/** Resolves when the model no longer loads (or its load failed); rejects when the signal aborts. */
export function loaded(signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      waiters.delete(done);
      reject(new DOMException("stopped", "AbortError"));
    };
    const done = () => {
      waiters.delete(done);
      signal.removeEventListener("abort", stop);
      resolve();
    };
    signal.addEventListener("abort", stop);
    waiters.add(done);
    poke();
  });
}

/** Looks now, and soon again. */
export function poke() {
  clearTimeout(timer);
  look();
}

async function look() {
  clearTimeout(timer);
  try {
    // Not from /ready, which answers the same with 503 during a load: browsers note each such answer as an error.
    const health = await read("/health");
    failures = 0;
    $("gone").hidden = true;
    show(health.readiness, health);
  } catch (error) {
    failures += 1;
    if (failures > 1 || error.status !== 0) gone(error);
  }
  const wait = failures > 0 ? Math.min(5000, 500 * failures) : state.name === "loading" ? 250 : 2000;
  timer = setTimeout(look, document.hidden ? 10000 : wait);
}

async function read(path) {
  const response = await send(path);
  const body = await response.json().catch(() => null);
  if (!body || !response.ok) throw new ApiError(response.status, body);
  return body;
}

function gone(error) {
  const banner = $("gone");
  const text = error.status === 0 ? "The server does not answer. This page tries again by itself." : `The server answers with an error: ${error.message}`;
  if (banner.hidden || banner.textContent !== text) banner.textContent = text;
  banner.hidden = false;
  pill("gone", "");
  $("model-state").textContent = "not reachable";
  $("loading").hidden = true;
}

function pill(name, model) {
  state.name = name;
  $("model").dataset.state = name;
  if (model) $("model-name").textContent = model;
}

function show(ready, health) {
  const name = ready.status === "ready" ? (ready.model_loaded ? "ready" : "unloaded") : ready.status;
  pill(name, health.model);
  state.stage = ready.stage ?? null;
  state.progress = ready.progress ?? null;
  $("version").textContent = `HAPA ${health.version}`;
  const percent = state.progress === null ? "" : ` ${Math.floor(state.progress * 100)}%`;
  $("model-state").textContent = name === "loading" ? `${STATES.loading}${percent}` : (STATES[name] ?? name);
  $("loading").hidden = name !== "loading" && name !== "failed";
  if (name === "loading") {
    $("loading-stage").textContent = STEPS[ready.stage] ?? STEPS.loading;
    const amounts = IN_BYTES.includes(ready.stage) ? `, ${bytes(ready.done)} of ${bytes(ready.total)}` : "";
    $("loading-detail").textContent = state.progress === null ? "" : `${percent.trim()}${amounts}`;
    $("loading-bar").hidden = false;
    if (state.progress === null) $("loading-bar").removeAttribute("value");
    else $("loading-bar").value = state.progress;
    return;
  }
  if (name === "failed") {
    $("loading-stage").textContent = "The model could not be loaded.";
    $("loading-detail").textContent = ready.error_message ?? "";
    $("loading-bar").hidden = true;
  }
  for (const done of [...waiters]) done();
}

/** What to say of a load under way, of the default model's if of no other. */
export function loadText({ stage, progress } = state) {
  const percent = progress === null ? "" : `, ${Math.floor(progress * 100)}%`;
  return `${STEPS[stage] ?? STEPS.loading}${percent}`;
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) poke();
});
