// Views by the address's fragment, keys for all of them, and the dialog for the API key.
import { $ } from "./format.js";
import { hasKey, setKey } from "./api.js";
import { askForKey } from "./problem.js";
import * as status from "./status.js";
import * as generate from "./generate.js";
import * as complete from "./complete.js";
import * as dashboard from "./dashboard.js";
import * as requests from "./requests.js";

const VIEWS = {
  generate: { title: "Generate", show: () => $("question").focus({ preventScroll: true }) },
  complete: { title: "Complete", show: () => $("editor").focus({ preventScroll: true }) },
  dashboard: { title: "Dashboard", show: dashboard.show },
  requests: { title: "Requests", show: requests.show, hide: requests.hide },
};

let current = null;

function route() {
  const [name, detail] = location.hash.slice(1).split("/");
  if (name === "main") return;
  const view = VIEWS[name] ? name : "generate";
  const changed = view !== current;
  if (changed) VIEWS[current]?.hide?.();
  current = view;
  for (const other of Object.keys(VIEWS)) $(`view-${other}`).hidden = other !== view;
  for (const link of document.querySelectorAll("header nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${VIEWS[view].title} · HAPA`;
  if (changed) scrollTo(0, 0);
  if (changed || detail) VIEWS[view].show(detail && decodeURIComponent(detail));
}

function keys(event) {
  if ($("key-dialog").open) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    if (current === "generate") generate.submit();
    if (current === "complete") complete.submit();
  }
  if (event.key === "Escape") {
    if (current === "generate") generate.stop();
    if (current === "complete" && complete.escape()) event.preventDefault();
  }
}

function keyDialog() {
  const dialog = $("key-dialog");
  const label = () => ($("key-button").textContent = hasKey() ? "API key set" : "API key");
  $("key-button").addEventListener("click", () => askForKey());
  $("key-cancel").addEventListener("click", () => dialog.close());
  const use = (key) => {
    setKey(key);
    $("key").value = "";
    label();
    dialog.close();
    if (current === "dashboard" || current === "requests") VIEWS[current].show();
  };
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if ($("key").value.trim()) use($("key").value.trim());
  });
  $("key-forget").addEventListener("click", () => use(null));
  label();
}

generate.start();
complete.start();
dashboard.start();
requests.start();
keyDialog();
addEventListener("hashchange", route);
addEventListener("keydown", keys);
route();
status.poke();
