// Python with colours, explanations with inline code, and copying.
import hljs from "./vendor/highlight/core.min.js";
import python from "./vendor/highlight/python.min.js";
import { el } from "./format.js";

hljs.registerLanguage("python", python);

// highlight.js escapes what it is given; nothing else on this page turns text into markup.
const policy = window.trustedTypes?.createPolicy("hapa-highlight", { createHTML: (markup) => markup });

export function highlight(node, code) {
  const { value } = hljs.highlight(code, { language: "python", ignoreIllegals: true });
  node.innerHTML = policy ? policy.createHTML(value) : value;
}

/** Paragraphs, lists by their own dashes, `code`. */
export function prose(node, text) {
  const blocks = text.trim().split(/\n{2,}/).filter(Boolean);
  node.replaceChildren(...blocks.map((block) => el("p", {}, ...inline(block))));
}

function inline(text) {
  return text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/).map((part) => {
    if (part.length > 2 && part.startsWith("`") && part.endsWith("`")) return el("code", { text: part.slice(1, -1) });
    if (part.length > 4 && part.startsWith("**") && part.endsWith("**")) return el("strong", { text: part.slice(2, -2) });
    return part;
  });
}

/** The text of an answer under way without its code blocks. */
export const withoutCode = (text) =>
  text
    .split(/^```.*$/m)
    .filter((_, index) => index % 2 === 0)
    .join("\n\n");

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return;
  } catch {
    // Without TLS there is no clipboard beyond loopback.
  }
  const area = el("textarea", { class: "visually-hidden", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
