// An editor whose cursor the model completes at: the suggestion stands there in grey until it is taken.
import { $, el, seconds } from "./format.js";
import { ask } from "./api.js";
import { highlight } from "./code.js";
import { number } from "./generate.js";
import { receipt } from "./receipt.js";
import * as problem from "./problem.js";
import * as status from "./status.js";

const START = `import csv
from collections import Counter


def most_common_words(path: str, n: int = 10) -> list[tuple[str, int]]:
    """Return the n most common words of a file."""
    

if __name__ == "__main__":
    for word, count in most_common_words("book.txt"):
        print(f"{count:6} {word}")
`;

/** A pause in typing after which a suggestion is asked for. */
const PAUSE_MS = 250;

const editor = () => $("editor");
let running = null;
let ghost = null; // { at, texts, chosen }
let pause = null;

export function start() {
  editor().value = START;
  const cursor = START.indexOf('file."""\n    ') + 'file."""\n    '.length;
  editor().setSelectionRange(cursor, cursor);
  editor().addEventListener("input", () => {
    typed();
    draw();
  });
  editor().addEventListener("keydown", keys);
  document.addEventListener("selectionchange", () => {
    if (document.activeElement === editor() && ghost && editor().selectionStart !== ghost.at) drop();
  });
  $("complete-form").addEventListener("submit", (event) => {
    event.preventDefault();
    complete();
  });
  $("accept").addEventListener("click", take);
  $("complete-stop").addEventListener("click", stop);
  draw();
}

export const submit = () => $("complete-form").requestSubmit();
export const isRunning = () => running !== null;

/** Stops a request, or drops a suggestion; false when there was neither. */
export function escape() {
  if (running) {
    stop();
    return true;
  }
  if (!ghost) return false;
  drop();
  return true;
}

export function stop() {
  clearTimeout(pause);
  running?.abort();
}

function keys(event) {
  if (!ghost || event.isComposing) return;
  if (event.key === "Tab" && !event.shiftKey && !event.ctrlKey && !event.altKey) {
    event.preventDefault();
    take();
  } else if (event.altKey && (event.key === "]" || event.key === "[")) {
    event.preventDefault();
    choose((ghost.chosen + (event.key === "]" ? 1 : ghost.texts.length - 1)) % ghost.texts.length);
  }
}

/** Typing what is suggested keeps the rest of it; anything else drops it. */
function typed() {
  const at = editor().selectionStart;
  if (ghost && at > ghost.at) {
    const added = editor().value.slice(ghost.at, at);
    const texts = ghost.texts.filter((text) => text.startsWith(added) && text.length > added.length).map((text) => text.slice(added.length));
    if (texts.length > 0 && ghost.texts[ghost.chosen].startsWith(added)) {
      ghost = { at, texts, chosen: 0 };
      list();
      return;
    }
  }
  stop();
  drop();
  if ($("as-you-type").checked) pause = setTimeout(complete, PAUSE_MS);
}

function draw() {
  const shadow = $("editor-shadow");
  const text = editor().value;
  // The last line has height only with something on it.
  highlight(shadow, `${text}\n`);
  if (ghost) insert(shadow, ghost.at, el("span", { class: "ghost", text: ghost.texts[ghost.chosen] }));
}

/** Puts a node at an offset of the text of `root`. */
function insert(root, offset, node) {
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  let left = offset;
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    if (left <= text.length) {
      text.splitText(left).before(node);
      return;
    }
    left -= text.length;
  }
  root.append(node);
}

async function complete() {
  stop();
  drop();
  problem.clear($("complete-form"), $("complete-problem"));
  const controller = new AbortController();
  running = controller;
  $("complete-stop").hidden = false;
  $("complete-status").textContent = "Thinking";
  const at = editor().selectionStart;
  const body = {
    prefix: editor().value.slice(0, at),
    suffix: editor().value.slice(editor().selectionEnd) || undefined,
    max_tokens: number("complete-tokens"),
    n: number("candidates"),
  };
  const began = performance.now();
  const looking = setTimeout(status.poke, 100);
  try {
    const response = await answer(body, controller.signal);
    if (running !== controller) return;
    suggest(at, response.body);
    receipt($("complete-receipt"), response.body, response.requestId);
    const took = seconds((performance.now() - began) / 1e3);
    $("complete-status").textContent = ghost ? `Suggested in ${took}` : `Nothing to suggest (${took})`;
  } catch (error) {
    if (running !== controller) return;
    $("complete-status").textContent = error.name === "AbortError" ? "Stopped" : "";
    if (error.name === "AbortError") return;
    if (error.status === 0) status.poke();
    problem.show(error, { form: $("complete-form"), notice: $("complete-problem"), again: complete });
  } finally {
    clearTimeout(looking);
    if (running === controller) {
      running = null;
      $("complete-stop").hidden = true;
    }
    status.poke();
  }
}

async function answer(body, signal) {
  for (;;) {
    try {
      const response = await ask("/api/v1/code/complete", { body, signal });
      return { body: await response.json(), requestId: response.headers.get("x-request-id") };
    } catch (error) {
      if (error.code !== "MODEL_LOADING") throw error;
      $("complete-status").textContent = status.loadText();
      await status.loaded(signal);
    }
  }
}

function suggest(at, body) {
  const texts = body.completions.filter((text) => text.trim() !== "");
  $("complete-empty").hidden = true;
  if (texts.length === 0) return;
  ghost = { at, texts, chosen: 0 };
  $("accept").hidden = false;
  // Moving the cursor drops a suggestion, so it has to stand where the text was cut.
  if (document.activeElement !== editor()) editor().focus();
  editor().setSelectionRange(at, at);
  list();
  draw();
}

function list() {
  // Shown with the indentation that stands before the cursor.
  const line = editor().value.slice(0, ghost.at).split("\n").at(-1);
  const indent = line.trim() === "" ? line : "";
  const rows = ghost.texts.map((text, index) => {
    const code = el("code");
    highlight(code, (indent + text).replace(/^\s*\n/, ""));
    const button = el("button", { type: "button", class: "candidate", "aria-pressed": String(index === ghost.chosen) }, el("pre", { class: "code" }, code));
    button.addEventListener("click", () => {
      choose(index);
      editor().focus();
    });
    return el("li", {}, button);
  });
  $("candidate-list").replaceChildren(...rows);
}

function choose(index) {
  ghost.chosen = index;
  list();
  draw();
}

function drop() {
  clearTimeout(pause);
  if (!ghost) return;
  ghost = null;
  $("accept").hidden = true;
  $("candidate-list").replaceChildren();
  draw();
}

function take() {
  if (!ghost) return;
  const { at, texts, chosen } = ghost;
  drop();
  editor().focus();
  editor().setSelectionRange(at, editor().selectionEnd);
  // Only this leaves the browser's own undo intact.
  if (!document.execCommand("insertText", false, texts[chosen])) {
    editor().setRangeText(texts[chosen], at, editor().selectionEnd, "end");
  }
  $("complete-status").textContent = "Taken";
  draw();
}
