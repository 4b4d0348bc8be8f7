// OpenAI's own client for Node against a server. Arguments: its address, and the folder with node_modules.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [base, modules] = process.argv.slice(2);
const OpenAI = createRequire(`${modules}/`)("openai").default;
const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: "none", maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
const messages = [{ role: "user", content: "hi" }];

const whole = await client.chat.completions.create({ model, messages, max_tokens: 8 });
const text = whole.choices[0].message.content;
assert.equal(whole.usage.completion_tokens, 8);

let streamed = "";
for await (const chunk of await client.chat.completions.create({ model, messages, max_tokens: 8, stream: true })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
}
assert.equal(streamed, text);

const format = { type: "json_schema", json_schema: { name: "n", schema: { type: "object",
  properties: { ok: { type: "boolean" } }, required: ["ok"], additionalProperties: false } } };
const formed = await client.chat.completions.create({ model, messages, max_tokens: 200, response_format: format });
assert.equal(typeof JSON.parse(formed.choices[0].message.content).ok, "boolean");

const between = await client.completions.create({ model, prompt: "x = ", suffix: "\n", max_tokens: 4 });
assert.equal(typeof between.choices[0].text, "string");
await assert.rejects(client.chat.completions.create({ model: "other", messages }), OpenAI.NotFoundError);
console.log("ok");
