//! OpenAI's log-probabilities, forms and tools, and Anthropic's messages, over real HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod common;

use common::{Reply, start, start_model};
use hapa_model::testing::TinyModel;
use serde_json::{Value, json};

fn ok(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    reply.json()
}

fn data(event: &str) -> Value {
    serde_json::from_str(event).unwrap_or_else(|error| panic!("{error} in {event}"))
}

fn chat_with(extra: &Value) -> Value {
    let mut body = json!({ "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 6 });
    for (field, value) in extra.as_object().unwrap() {
        body[field] = value.clone();
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn log_probabilities() {
    let server = start().await;
    let request = chat_with(&json!({ "logprobs": true, "top_logprobs": 3 }));
    let body = ok(&server.post("/v1/chat/completions", &request).await);
    let choice = &body["choices"][0];
    let tokens = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(tokens.len(), 6);
    for token in tokens {
        // Greedy: the token is the likeliest one.
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        assert_eq!((&top[0]["logprob"], &top[0]["bytes"]), (&token["logprob"], &token["bytes"]));
        assert!(top[0]["logprob"].as_f64().unwrap() >= top[2]["logprob"].as_f64().unwrap());
    }
    let bytes: Vec<u8> = tokens
        .iter()
        .flat_map(|token| token["bytes"].as_array().unwrap())
        .map(|byte| u8::try_from(byte.as_u64().unwrap()).unwrap())
        .collect();
    assert_eq!(String::from_utf8_lossy(&bytes), choice["message"]["content"].as_str().unwrap());

    let mut streaming = request.clone();
    streaming["stream"] = json!(true);
    let reply = server.post("/v1/chat/completions", &streaming).await;
    let streamed: Vec<Value> = reply
        .events()
        .iter()
        .filter(|event| *event != "[DONE]")
        .flat_map(|event| {
            let content = data(event)["choices"][0]["logprobs"]["content"].clone();
            content.as_array().cloned().unwrap_or_default()
        })
        .collect();
    assert_eq!(&streamed, tokens, "what was streamed is what is told at once");

    let body = ok(&server
        .post("/v1/completions", &json!({ "prompt": "x = ", "max_tokens": 4, "logprobs": 2 }))
        .await);
    let logprobs = &body["choices"][0]["logprobs"];
    for field in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(logprobs[field].as_array().map(Vec::len), Some(4), "{field} of {logprobs}");
    }
    let refused = server
        .post("/v1/chat/completions", &chat_with(&json!({ "logprobs": true, "top_logprobs": 21 })))
        .await;
    assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!("top_logprobs")));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_a_form() {
    let server = start().await;
    let schema = json!({
        "type": "object",
        "properties": { "ok": { "type": "boolean" }, "size": { "enum": ["small", "large"] } },
        "required": ["ok", "size"],
        "additionalProperties": false,
    });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": schema, "strict": true } });
    for sampling in [json!({ "temperature": 0 }), json!({ "temperature": 1.5, "seed": 7 })] {
        let mut request = chat_with(&sampling);
        request["response_format"] = format.clone();
        request["max_tokens"] = json!(300);
        let body = ok(&server.post("/v1/chat/completions", &request).await);
        let choice = &body["choices"][0];
        // A random model writes no JSON by itself: the form was enforced.
        let answer: Value =
            serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap();
        assert!(
            answer["ok"].is_boolean()
                && ["small", "large"].contains(&answer["size"].as_str().unwrap())
        );
        assert_eq!(
            (answer.as_object().unwrap().len(), &choice["finish_reason"]),
            (2, &json!("stop"))
        );
        request["stream"] = json!(true);
        let reply = server.post("/v1/chat/completions", &request).await;
        let streamed: String = reply
            .events()
            .iter()
            .filter(|event| *event != "[DONE]")
            .filter_map(|event| {
                data(event)["choices"][0]["delta"]["content"].as_str().map(str::to_owned)
            })
            .collect();
        assert_eq!(choice["message"]["content"], streamed);
    }
    // Alone the model answers something else, and the form is a part of the cache's key.
    let free =
        ok(&server.post("/v1/chat/completions", &chat_with(&json!({ "max_tokens": 300 }))).await);
    let text = free["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(text).is_err());
    let mut object = chat_with(&json!({ "response_format": { "type": "json_object" } }));
    object["max_tokens"] = json!(5);
    let body = ok(&server.post("/v1/chat/completions", &object).await);
    assert!(
        body["choices"][0]["message"]["content"].as_str().unwrap().trim_start().starts_with('{')
    );

    for schema in
        [json!({ "type": "nothing" }), json!({ "type": "string", "pattern": "(" }), json!(3)]
    {
        let mut request = chat_with(&json!({}));
        request["response_format"] =
            json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": schema } });
        let reply = server.post("/v1/chat/completions", &request).await;
        assert_eq!(
            (reply.status, &reply.json()["error"]["param"]),
            (400, &json!("response_format")),
            "{schema}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_need_a_model_for_them() {
    let server = start().await;
    let tools = json!([{ "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } }]);
    let reply = server.post("/v1/chat/completions", &chat_with(&json!({ "tools": tools }))).await;
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("tools")));
    let none = chat_with(&json!({ "tools": tools, "tool_choice": "none" }));
    assert_eq!(server.post("/v1/chat/completions", &none).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_demanded_is_made() {
    // ChatML that tells of the tools and asks the model to write a call: a random one would never do so by itself.
    let template = "{% for t in tools %}{{ t.function.name }}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n\
                    {{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n";
    let server = start_model(TinyModel::qwen2().template(Some(template))).await;
    let tool = |name: &str| {
        let parameters = json!({
            "type": "object", "properties": { "n": { "$ref": "#/$defs/digit" } }, "required": ["n"],
            "additionalProperties": false, "$defs": { "digit": { "enum": [1, 2] } },
        });
        json!({ "type": "function", "function": { "name": name, "parameters": parameters } })
    };
    let tools = json!([tool("left"), tool("right")]);
    let right = json!({ "type": "function", "function": { "name": "right" } });
    for (choice, allowed) in [(json!("required"), &["left", "right"][..]), (right, &["right"][..])]
    {
        let mut request = chat_with(&json!({ "tools": tools, "tool_choice": choice }));
        request["max_tokens"] = json!(200);
        let body = ok(&server.post("/v1/chat/completions", &request).await);
        let answer = &body["choices"][0];
        assert_eq!(answer["finish_reason"], "tool_calls", "{body}");
        let call = &answer["message"]["tool_calls"][0]["function"];
        assert!(allowed.contains(&call["name"].as_str().unwrap()), "{body}");
        let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
        assert!([json!({ "n": 1 }), json!({ "n": 2 })].contains(&arguments), "{body}");
        request["stream"] = json!(true);
        request["cache"] = json!({ "no_store": true, "no_cache": true });
        let reply = server.post("/v1/chat/completions", &request).await;
        let events = reply.events();
        let deltas: Vec<Value> = events
            .iter()
            .filter_map(|event| serde_json::from_str::<Value>(event).ok())
            .map(|event| event["choices"][0]["delta"]["tool_calls"][0].clone())
            .filter(|call| !call.is_null())
            .collect();
        // The first has the name; the arguments come as they are written.
        let (first, more) = deltas.split_first().unwrap();
        assert_eq!(
            (&first["type"], &first["function"]["name"]),
            (&json!("function"), &call["name"])
        );
        assert!(first["id"].as_str().unwrap().starts_with("call_"), "{first}");
        assert!(more.len() > 1 && more.iter().all(|call| call["id"].is_null()), "{more:?}");
        assert!(deltas.iter().all(|call| call["index"] == 0), "{deltas:?}");
        let pieces = deltas.iter().map(|call| call["function"]["arguments"].as_str().unwrap());
        assert_eq!(call["arguments"], pieces.collect::<String>());
    }
    let tools = json!([{ "name": "only", "input_schema": { "type": "object", "additionalProperties": false } }]);
    for choice in [json!({ "type": "any" }), json!({ "type": "tool", "name": "only" })] {
        let request = json!({
            "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 200, "tools": tools, "tool_choice": choice,
        });
        let body = ok(&server.post("/v1/messages", &request).await);
        assert_eq!(
            (&body["stop_reason"], &body["content"][0]["name"]),
            (&json!("tool_use"), &json!("only")),
            "{body}"
        );
        let mut streaming = request.clone();
        streaming["stream"] = json!(true);
        let events = named(&server.post("/v1/messages", &streaming).await);
        let of = |name: &str| -> Vec<&Value> {
            events.iter().filter(|(other, _)| other == name).map(|(_, event)| event).collect()
        };
        let [begun] = of("content_block_start")[..] else { panic!("{events:?}") };
        assert_eq!(
            (&begun["content_block"]["name"], &begun["content_block"]["input"]),
            (&json!("only"), &json!({}))
        );
        assert_eq!(of("content_block_stop").len(), 1);
        let pieces = of("content_block_delta").into_iter().map(|event| &event["delta"]);
        let input: String = pieces.map(|delta| delta["partial_json"].as_str().unwrap()).collect();
        assert_eq!(serde_json::from_str::<Value>(&input).unwrap(), body["content"][0]["input"]);
    }
}

/// The named events of a reply.
fn named(reply: &Reply) -> Vec<(String, Value)> {
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let events =
        reply.text().split("\n\n").filter(|event| !event.is_empty() && !event.starts_with(':'));
    events
        .map(|event| {
            let (name, data) = event.split_once('\n').unwrap();
            let name = name.strip_prefix("event: ").unwrap().to_owned();
            (name, serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropics_messages() {
    let server = start().await;
    let mut request = json!({
        "model": "tiny", "max_tokens": 6, "system": "Be brief.",
        "messages": [{ "role": "user", "content": [{ "type": "text", "text": "hi" }] }],
    });
    let body = ok(&server.post("/v1/messages", &request).await);
    assert_eq!((&body["type"], &body["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!(
        (&body["stop_reason"], &body["usage"]["output_tokens"]),
        (&json!("max_tokens"), &json!(6))
    );
    let text = body["content"][0]["text"].as_str().unwrap().to_owned();
    assert_eq!(body["content"][0]["type"], "text");

    request["stream"] = json!(true);
    let events = named(&server.post("/v1/messages", &request).await);
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..2], ["message_start", "content_block_start"]);
    assert_eq!(names[names.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    assert!(events.iter().all(|(name, event)| event["type"] == *name));
    let streamed: String =
        events.iter().filter_map(|(_, event)| event["delta"]["text"].as_str()).collect();
    assert_eq!(streamed, text);
    let (_, end) = &events[events.len() - 2];
    assert_eq!(
        (&end["delta"]["stop_reason"], &end["usage"]["output_tokens"]),
        (&json!("max_tokens"), &json!(6))
    );

    request["stream"] = json!(false);
    let stop: String = text.chars().skip(text.chars().count() / 2).take(2).collect();
    request["stop_sequences"] = json!(["never", stop]);
    // The second time out of the cache.
    let mut body = Value::Null;
    for cache in ["miss", "hit-l1"] {
        let reply = server.post("/v1/messages", &request).await;
        assert_eq!(reply.header("x-hapa-cache"), Some(cache));
        body = ok(&reply);
        assert_eq!(
            (&body["stop_reason"], &body["stop_sequence"]),
            (&json!("stop_sequence"), &json!(stop))
        );
    }
    request["stream"] = json!(true);
    let events = named(&server.post("/v1/messages", &request).await);
    assert_eq!(events[events.len() - 2].1["delta"]["stop_sequence"], json!(stop));
    request["stream"] = json!(false);

    let count = ok(&server.post("/v1/messages/count_tokens", &request).await);
    let usage = &body["usage"];
    let prompt = usage["input_tokens"].as_u64().unwrap()
        + usage["cache_read_input_tokens"].as_u64().unwrap();
    assert_eq!(count["input_tokens"], prompt);

    let reply = server.post("/v1/messages", &json!({ "messages": [], "max_tokens": 1 })).await;
    assert_eq!((reply.status, &reply.json()["type"]), (400, &json!("error")));
    assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
    let reply = server
        .post("/v1/messages", &json!({ "model": "other", "messages": [], "max_tokens": 1 }))
        .await;
    assert_eq!((reply.status, &reply.json()["error"]["type"]), (404, &json!("not_found_error")));
}
