//! What agents and their clients rely on beyond single answers: room for long ones, calls that are calls and nothing else, forms,
//! and answers that go on with what was begun. Over real HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod common;

use common::{Reply, TestServer, start, start_model};
use hapa_model::testing::TinyModel;
use serde_json::{Value, json};

const CONTEXT: u64 = 700;

/// ChatML that tells of the tools; what the model writes by itself is random.
async fn server() -> TestServer {
    let template = "{% for t in tools %}{{ t.function.name }}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n\
                    {{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let context = usize::try_from(CONTEXT).unwrap();
    start_model(TinyModel::qwen2().template(Some(template)).context_length(context)).await
}

fn ok(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    reply.json()
}

/// A body with one message of the user and the fields of `extra`.
fn asking(extra: &Value) -> Value {
    let mut body = json!({ "messages": [{ "role": "user", "content": "hi" }] });
    for (field, value) in extra.as_object().unwrap() {
        body[field] = value.clone();
    }
    body
}

/// The data of a stream's events, without the one that ends OpenAI's.
fn data(reply: &Reply) -> Vec<Value> {
    let lines = reply.text().lines().filter_map(|line| line.strip_prefix("data: "));
    let data = lines.filter(|data| *data != "[DONE]");
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

fn function(name: &str, parameters: &Value) -> Value {
    json!({ "type": "function", "function": { "name": name, "parameters": parameters } })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_what_room_there_is() {
    let server = server().await;
    // A random model may end at once, but not before what it was made to write is whole.
    let endless = json!({ "const": "x".repeat(1_500) });
    let form = json!({ "json_schema": endless });
    for limit in [Value::Null, json!(-1), json!(64_000), json!(4_000_000_000_000_u64)] {
        let mut body = asking(&form);
        body["max_tokens"] = limit.clone();
        let answer = ok(&server.post("/v1/chat/completions", &body).await);
        let usage = &answer["usage"];
        assert_eq!(
            (&answer["choices"][0]["finish_reason"], &usage["total_tokens"]),
            (&json!("length"), &json!(CONTEXT)),
            "{limit}: {usage}"
        );
    }
    let form = json!({ "format": { "type": "json_schema", "schema": endless } });
    let mut body = asking(&json!({ "output_config": form, "max_tokens": 64_000 }));
    let answer = ok(&server.post("/v1/messages", &body).await);
    let written = answer["usage"]["output_tokens"].as_u64().unwrap();
    assert!(answer["stop_reason"] == "max_tokens" && written > 600, "{}", answer["usage"]);
    body["max_tokens"] = json!(0);
    assert_eq!(server.post("/v1/messages", &body).await.status, 400);
    // A completion is short unless it is asked for more.
    let body = json!({ "prompt": "x", "json_schema": endless });
    let answer = ok(&server.post("/v1/completions", &body).await);
    assert_eq!(answer["usage"]["completion_tokens"], 512, "{}", answer["usage"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demanded_call_that_is_cut_is_a_part_of_a_call() {
    let server = server().await;
    let parameters = json!({
        "type": "object", "properties": { "text": { "const": "x".repeat(1_500) } }, "required": ["text"],
        "additionalProperties": false,
    });
    let tools = json!([function("write", &parameters), function("other", &parameters)]);
    let named = json!({ "type": "function", "function": { "name": "write" } });
    for (choice, tokens) in [(json!("required"), 350), (named.clone(), 350), (named.clone(), 2)] {
        // The quote stands in the form from its beginning, and would end it at once. There may be 32 blanks between any two signs.
        let mut body = asking(&json!({
            "tools": tools, "tool_choice": choice, "max_tokens": tokens, "stop": ["\"", "name", "x"],
        }));
        let answer = ok(&server.post("/v1/chat/completions", &body).await);
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "length", "{answer}");
        assert_eq!(
            (&choice["message"]["content"], &choice["message"]["refusal"]),
            (&Value::Null, &Value::Null)
        );
        let call = &choice["message"]["tool_calls"][0];
        let arguments = call["function"]["arguments"].as_str().unwrap();
        if tokens > 2 {
            assert!(["write", "other"].contains(&call["function"]["name"].as_str().unwrap()));
            assert!(arguments.starts_with('{') && !arguments.contains("name"), "{answer}");
            assert!(serde_json::from_str::<Value>(arguments).is_err(), "{arguments}");
        } else {
            assert_eq!((&call["function"]["name"], arguments), (&json!("write"), ""));
        }
        body["stream"] = json!(true);
        let events = data(&server.post("/v1/chat/completions", &body).await);
        let deltas = || events.iter().map(|event| &event["choices"][0]["delta"]);
        let streamed: Vec<&Value> =
            deltas().filter_map(|delta| delta.get("tool_calls")).map(|calls| &calls[0]).collect();
        assert_eq!(streamed[0]["function"]["name"], call["function"]["name"], "{events:?}");
        let pieces = streamed.iter().map(|call| call["function"]["arguments"].as_str().unwrap());
        assert_eq!(pieces.collect::<String>(), arguments);
        assert!(deltas().all(|delta| delta["content"].as_str().is_none_or(str::is_empty)));
        let end = events.iter().find_map(|event| event["choices"][0]["finish_reason"].as_str());
        assert_eq!(end, Some("length"));
    }

    let tools = json!([{ "name": "write", "input_schema": parameters }]);
    let mut body = asking(&json!({
        "tools": tools, "tool_choice": { "type": "any" }, "max_tokens": 350, "stop_sequences": ["\""],
    }));
    let answer = ok(&server.post("/v1/messages", &body).await);
    let block = &answer["content"][0];
    assert_eq!(answer["stop_reason"], "max_tokens", "{answer}");
    assert_eq!(
        (&block["type"], &block["name"], &block["input"]),
        (&json!("tool_use"), &json!("write"), &json!({}))
    );
    body["stream"] = json!(true);
    let events = data(&server.post("/v1/messages", &body).await);
    let partial: String =
        events.iter().filter_map(|event| event["delta"]["partial_json"].as_str()).collect();
    assert!(partial.starts_with('{') && serde_json::from_str::<Value>(&partial).is_err());
    assert!(events.iter().any(|event| event["delta"]["stop_reason"] == "max_tokens"));
    assert!(events.iter().all(|event| event["delta"]["text"].is_null()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_a_form_is_no_call() {
    let server = server().await;
    let schema = json!({
        "type": "object", "properties": { "name": { "const": "write" }, "arguments": { "const": {} } },
        "required": ["name", "arguments"], "additionalProperties": false,
    });
    let body = asking(&json!({
        "tools": [function("write", &json!({}))], "max_tokens": 200,
        "response_format": { "type": "json_schema", "json_schema": { "name": "n", "schema": schema } },
    }));
    let answer = ok(&server.post("/v1/chat/completions", &body).await);
    let message = &answer["choices"][0]["message"];
    assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
    let written: Value = serde_json::from_str(message["content"].as_str().unwrap()).unwrap();
    assert_eq!(written["name"], "write");
    assert!(message.get("tool_calls").is_none(), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropics_forms_are_enforced() {
    let server = server().await;
    let schema = json!({
        "type": "object", "properties": { "ok": { "type": "boolean" } }, "required": ["ok"],
        "additionalProperties": false,
    });
    let form = json!({ "type": "json_schema", "schema": schema });
    for field in [json!({ "output_config": { "format": form } }), json!({ "output_format": form })]
    {
        let mut body = asking(&field);
        body["max_tokens"] = json!(100);
        let answer = ok(&server.post("/v1/messages", &body).await);
        let written: Value =
            serde_json::from_str(answer["content"][0]["text"].as_str().unwrap()).unwrap();
        assert!(written["ok"].is_boolean(), "{answer}");
    }
    for (field, wanted) in [
        (json!({ "output_config": { "format": { "type": "xml" } } }), "output_config.format"),
        (
            json!({ "output_format": { "type": "json_schema", "schema": { "type": "no" } } }),
            "enforced",
        ),
    ] {
        let mut body = asking(&field);
        body["max_tokens"] = json!(100);
        let reply = server.post("/v1/messages", &body).await;
        let message = reply.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(reply.status == 400 && message.contains(wanted), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_begun_answer_goes_on() {
    let server = server().await;
    let begun = "def add(a, b):\n    ";
    let tokens = ok(&server.post("/tokenize", &json!({ "content": begun })).await);
    let tokens = tokens["tokens"].as_array().unwrap().len();
    let user = json!({ "role": "user", "content": "hi" });
    let assistant = json!({ "role": "assistant", "content": begun });
    let counted = async |messages: Value| {
        let body = json!({ "messages": messages, "max_tokens": 1 });
        let count = ok(&server.post("/v1/messages/count_tokens", &body).await);
        let chat = ok(&server.post("/v1/chat/completions", &body).await);
        assert_eq!(count["input_tokens"], chat["usage"]["prompt_tokens"]);
        usize::try_from(count["input_tokens"].as_u64().unwrap()).unwrap()
    };
    let alone = counted(json!([user])).await;
    // Its tokens and no others: the turn neither ends nor begins anew.
    assert_eq!(counted(json!([user, assistant])).await, alone + tokens);
    assert!(counted(json!([user, assistant, user])).await > alone + tokens + alone / 2);

    let body =
        json!({ "messages": [user, assistant], "response_format": { "type": "json_object" } });
    let reply = server.post("/v1/chat/completions", &body).await;
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("messages")));
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_of_tools_are_enforced_as_far_as_they_can_be() {
    let server = server().await;
    let zods = json!({
        "$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "additionalProperties": false,
        "properties": {
            "tags": { "type": "array", "items": { "enum": ["a"] }, "minItems": 1, "maxItems": 1, "uniqueItems": true },
            "more": { "type": "object", "propertyNames": { "type": "string" }, "additionalProperties": { "type": "string" } },
            "when": { "type": "string", "format": "no-such-format", "maxLength": 3 },
        },
        "required": ["tags"],
    });
    let tools = json!([function("zods", &zods)]);
    let body = asking(&json!({ "tools": tools, "tool_choice": "required", "max_tokens": 400 }));
    let answer = ok(&server.post("/v1/chat/completions", &body).await);
    let call = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments["tags"], json!(["a"]), "{answer}");

    let broken = json!({ "type": "object", "properties": { "x": { "type": "string", "pattern": "(" } }, "required": ["x"] });
    let tools = json!([function("good", &json!({})), function("broken", &broken)]);
    let body = asking(&json!({ "tools": tools, "tool_choice": "required" }));
    let reply = server.post("/v1/chat/completions", &body).await;
    let error = &reply.json()["error"];
    assert_eq!((reply.status, &error["param"]), (400, &json!("tools[1]")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropics_clients_find_what_they_look_for() {
    let server = start().await;
    let reply = server.post("/v1/messages", &json!({ "messages": [] })).await;
    assert_eq!(reply.status, 400);
    assert_eq!(reply.header("request-id"), reply.header("x-request-id"));
    assert!(reply.header("request-id").is_some());
    assert_eq!(server.get("/v1/models").await.header("request-id"), None);

    let version = [("anthropic-version", "2023-06-01")];
    let list = ok(&server.send("GET", "/v1/models", &version, b"").await);
    let model = &list["data"][0];
    assert_eq!((&model["type"], &list["has_more"]), (&json!("model"), &json!(false)));
    assert_eq!((&list["first_id"], &list["last_id"]), (&model["id"], &model["id"]));
    let one = format!("/v1/models/{}", model["id"].as_str().unwrap());
    assert_eq!(&ok(&server.send("GET", &one, &version, b"").await), model);
    assert_eq!(ok(&server.get(&one).await)["object"], "model");
}
