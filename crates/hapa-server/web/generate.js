// A question in, code out, as it is written.
import { $, el, seconds, rate } from "./format.js";
import { ask, events } from "./api.js";
import { highlight, prose, withoutCode, copy } from "./code.js";
import { receipt } from "./receipt.js";
import * as problem from "./problem.js";
import * as status from "./status.js";

const EXAMPLES = [
  "Merge two sorted lists into one sorted list",
  "Read a CSV file and return the sum of a column",
  "A decorator that retries a function with exponential backoff",
];

const form = () => $("generate-form");
let running = null;
let code = "";

export function start() {
  form().addEventListener("submit", (event) => {
    event.preventDefault();
    generate();
  });
  $("generate-stop").addEventListener("click", stop);
  $("generate-clear").addEventListener("click", () => {
    stop();
    $("question").value = "";
    $("context").value = "";
    reset();
    $("generate-empty").hidden = $("examples").hidden = false;
    $("generate-status").textContent = "";
    $("question").focus();
  });
  $("copy").addEventListener("click", async () => {
    await copy(code);
    $("copy").textContent = "Copied";
    setTimeout(() => ($("copy").textContent = "Copy"), 1500);
  });
  for (const text of EXAMPLES) {
    const pick = () => {
      $("question").value = text;
      generate();
    };
    $("examples").append(el("li", {}, el("button", { type: "button", class: "example", text, onclick: pick })));
  }
}

export const submit = () => form().requestSubmit();
export const isRunning = () => running !== null;

export function stop() {
  running?.abort();
}

function reset() {
  problem.clear(form(), $("generate-problem"));
  code = "";
  for (const id of ["answer-code", "answer-prose", "generate-receipt", "copy", "generate-empty", "examples"]) $(id).hidden = true;
}

/** Numbers as typed: an empty field is left out, and what is no number goes to the server, which says so. */
export function number(id) {
  const field = $(id);
  if (field.validity.badInput) return "not a number";
  return field.value.trim() === "" ? undefined : Number(field.value);
}

function body() {
  return {
    user_question: $("question").value,
    code_context: $("context").value || undefined,
    max_tokens: number("max-tokens"),
    temperature: number("temperature"),
    seed: number("seed"),
    cache: $("no-cache").checked ? { no_cache: true } : undefined,
    stream: true,
  };
}

async function generate() {
  stop();
  reset();
  const controller = new AbortController();
  running = controller;
  $("generate-stop").hidden = false;
  $("generate-status").textContent = "Waiting for the first token";
  try {
    await stream(controller.signal);
  } catch (error) {
    if (running !== controller) return;
    if (error.name === "AbortError") {
      $("generate-status").textContent = "Stopped";
    } else {
      $("generate-status").textContent = "";
      if (error.status === 0) status.poke();
      problem.show(error, { form: form(), notice: $("generate-problem"), again: generate });
    }
  } finally {
    if (running === controller) {
      running = null;
      $("generate-stop").hidden = true;
    }
  }
}

/** Waits for a load that is under way, and asks again. */
async function patiently(path, options) {
  for (;;) {
    try {
      return await ask(path, options);
    } catch (error) {
      if (error.code !== "MODEL_LOADING") throw error;
      await status.loaded(options.signal);
    }
  }
}

async function stream(signal) {
  const began = performance.now();
  let [text, tokens, first, drawn] = ["", 0, 0, false];
  // The load that this request starts is worth seeing at once.
  const looking = setTimeout(status.poke, 100);
  const telling = setInterval(() => {
    const loading = status.state.name === "loading";
    $("generate-status").textContent = loading ? status.loadText() : "Waiting for the first token";
  }, 200);
  const draw = () => {
    drawn = false;
    if (signal.aborted) return;
    showCode();
    showProse(withoutCode(text));
    const took = (performance.now() - first) / 1e3;
    $("generate-status").textContent = took > 0.3 ? `${tokens} tokens, ${rate((tokens - 1) / took)} tokens/s` : "Writing";
  };
  try {
    const response = await patiently("/api/v1/code/generate", { body: body(), signal, accept: "text/event-stream" });
    for await (const event of events(response)) {
      if (event.type === "done") {
        finish(event, response.headers.get("x-request-id"), (performance.now() - began) / 1e3);
        continue;
      }
      if (!first) clearInterval(telling);
      first ||= performance.now();
      tokens += 1;
      text += event.text;
      code += event.code;
      if (!drawn) {
        drawn = true;
        requestAnimationFrame(draw);
      }
    }
  } finally {
    clearTimeout(looking);
    clearInterval(telling);
    status.poke();
  }
}

function showCode() {
  $("answer-code").hidden = code === "";
  highlight($("answer-code").firstElementChild, code);
}

function showProse(text) {
  $("answer-prose").hidden = text.trim() === "";
  prose($("answer-prose"), text);
}

function finish(answer, requestId, took) {
  // Drawn once more by what is whole, after the frame that may be waiting.
  requestAnimationFrame(() => {
    code = answer.generated_code;
    showCode();
    showProse(answer.explanation);
    $("copy").hidden = code === "";
    const wrong = answer.syntax.checked && !answer.syntax.is_valid;
    const issue = answer.syntax.issues[0];
    const syntax = !answer.syntax.checked ? "" : wrong ? `, not valid Python (line ${issue?.line}: ${issue?.message})` : ", valid Python";
    $("generate-status").textContent = `Done in ${seconds(took)}${syntax}`;
    receipt($("generate-receipt"), answer, requestId);
  });
}
