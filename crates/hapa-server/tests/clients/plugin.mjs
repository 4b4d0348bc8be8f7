// What the editor plug-in sends: axios with the API's prefix as its base, and fetch. Arguments: address, key, folder of axios.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [base, key, folder] = process.argv.slice(2);
const axios = createRequire(`${folder}/`)("axios");

const headers = { "Content-Type": "application/json", "User-Agent": "HAPA-VSCode-Extension/0.4.0" };
const client = axios.create({ baseURL: `${base}/api/v1`, timeout: 30000, headers });
client.interceptors.request.use((config) => {
  config.headers["X-API-Key"] = key;
  return config;
});

assert.equal((await client.get("/health")).status, 200);
const question = { user_question: "Hello World 함수를 만들어주세요", language: "python", file_path: "a.py", max_tokens: 8 };
const generated = (await client.post("/code/generate", question)).data;
assert.equal(generated.status, "success");
assert.equal(typeof generated.generated_code, "string");
const cursor = { prefix: "def calculate_", language: "python", cursor_position: 14 };
const completed = (await client.post("/code/complete", cursor)).data;
assert.equal(completed.status, "success");
assert.ok(completed.completions.length > 0);

// An answer that `max_tokens` cut is not kept; computed anew it is the same to the letter.
const again = await fetch(`${base}/api/v1/code/generate`, {
  method: "POST",
  headers: { "Content-Type": "application/json", "X-API-Key": key },
  body: JSON.stringify({ ...question, code_context: undefined }),
});
assert.equal(again.headers.get("x-hapa-cache"), "miss");
assert.equal((await again.json()).generated_code, generated.generated_code);

const error = await client.post("/code/generate", { user_question: "" }).then(
  () => assert.fail("an empty question was answered"),
  (error) => error,
);
assert.equal(error.response.status, 422);
assert.match(error.response.data.error_message, /user_question/);
assert.equal(error.response.data.error_details.field, "user_question");
