// Talking to the server: the key, errors with what they say, events of a stream.

const KEY = "hapa-api-key";

// Storage can be forbidden; then the key lasts as long as the page.
let remembered = null;
try {
  remembered = sessionStorage.getItem(KEY);
} catch {
  /* no storage */
}

export const hasKey = () => Boolean(remembered);

export function setKey(key) {
  remembered = key || null;
  try {
    if (remembered) sessionStorage.setItem(KEY, remembered);
    else sessionStorage.removeItem(KEY);
  } catch {
    /* no storage */
  }
}

/** An answer that is no success, or none at all (`status` 0). */
export class ApiError extends Error {
  constructor(status, body, retryAfter) {
    super(body?.error_message ?? body?.error?.message ?? (status ? `HTTP status ${status}` : "The server does not answer."));
    this.status = status;
    this.code = body?.error_code ?? (status ? "" : "GONE");
    this.field = body?.error_details?.field ?? body?.field ?? null;
    this.requestId = body?.error_details?.request_id ?? null;
    const wait = Number(retryAfter ?? body?.error_details?.retry_after_seconds);
    this.retryAfter = Number.isFinite(wait) && wait > 0 ? wait : null;
  }
}

/** Any request. Gives the response, whatever its status; throws an ApiError when there is none. */
export async function send(path, { body, signal, accept = "application/json" } = {}) {
  const headers = { accept };
  if (remembered) headers["x-api-key"] = remembered;
  if (body) headers["content-type"] = "application/json";
  try {
    return await fetch(path, {
      method: body ? "POST" : "GET",
      headers,
      body: body && JSON.stringify(body),
      signal,
      credentials: "omit",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0);
  }
}

/** As `send`, but only a success is an answer. */
export async function ask(path, options) {
  const response = await send(path, options);
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new ApiError(response.status, body, response.headers.get("retry-after"));
}

export const json = async (path, options) => (await ask(path, options)).json();

/** The events of a stream, as objects. An `error` event is thrown; a stream that ends early too. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let complete = false;
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      rest += value;
      const parts = rest.split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const data = part
          .split("\n")
          .filter((line) => line.startsWith("data:"))
          .map((line) => line.slice(5).trimStart())
          .join("\n");
        if (!data) continue;
        const event = JSON.parse(data);
        if (event.type === "error") throw new ApiError(503, event);
        complete ||= event.type === "done";
        yield event;
      }
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ApiError) throw error;
    throw new ApiError(0);
  } finally {
    reader.cancel().catch(() => {});
  }
  if (!complete) throw new ApiError(0, { error_message: "The server ended the answer before it was whole." });
}
