// Errors of requests, where they belong: at the field, or in the view's notice with the time to try again.
import { $, el } from "./format.js";

let counting = null;

/** Takes all errors of a form and its notice away. */
export function clear(form, notice) {
  clearInterval(counting);
  notice.hidden = true;
  notice.replaceChildren();
  for (const field of form?.querySelectorAll("[aria-invalid]") ?? []) {
    field.removeAttribute("aria-invalid");
    field.removeAttribute("aria-errormessage");
  }
  for (const error of form?.querySelectorAll(".field .error") ?? []) error.hidden = true;
}

/** Shows an error; `again` is what a second try does. */
export function show(error, { form, notice, again }) {
  if (error.status === 422 && error.field && atField(form, error)) return;
  if (error.status === 401) {
    askForKey(error.message);
    const button = el("button", { type: "button", text: "Enter a key", onclick: () => askForKey(error.message) });
    fill(notice, "This server wants an API key.", error.message, button);
    return;
  }
  if (error.status === 403) return fill(notice, "This key may not do that.", error.message);
  if (error.status === 429 || error.status === 503) return wait(notice, error, again);
  const headline = error.status === 0 ? error.message : `The server refused (${error.status}).`;
  fill(notice, headline, error.status === 0 ? "" : error.message, again && retryButton(again));
}

/** Puts a message under the field of that name; false when the form has none. */
function atField(form, error) {
  const field = form?.elements.namedItem(error.field);
  const place = field?.closest(".field")?.querySelector(".error");
  if (!place) return false;
  place.id ||= `${field.id}-error`;
  const own = `${error.field}: `;
  place.textContent = error.message.startsWith(own) ? error.message.slice(own.length) : error.message;
  place.hidden = false;
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-errormessage", place.id);
  const details = field.closest("details");
  if (details) details.open = true;
  field.focus();
  return true;
}

function wait(notice, error, again) {
  const headline = error.status === 429 ? "Too many requests with this key." : error.code === "OVERLOADED" ? "The server is busy." : "The server can't answer now.";
  const left = el("p", { class: "muted" });
  const button = again && retryButton(again);
  fill(notice, headline, error.message, left, button);
  let seconds = Math.ceil(error.retryAfter ?? 0);
  const tick = () => {
    left.textContent = seconds > 0 ? `Worth trying again in ${seconds} s.` : "Worth trying again now.";
    if (button) button.disabled = seconds > 0;
    if (seconds <= 0) clearInterval(counting);
    seconds -= 1;
  };
  tick();
  counting = setInterval(tick, 1000);
}

const retryButton = (again) => el("button", { type: "button", text: "Try again", onclick: again });

function fill(notice, headline, text, ...more) {
  notice.replaceChildren(
    el("p", {}, el("strong", { text: headline })),
    ...(text ? [el("p", { text })] : []),
    ...more.filter(Boolean),
  );
  notice.hidden = false;
}

/** Opens the dialog for the key. */
export function askForKey(reason) {
  $("key-reason").textContent = reason ?? "Sent as X-API-Key with each request, and kept for this tab only.";
  if (!$("key-dialog").open) $("key-dialog").showModal();
}
