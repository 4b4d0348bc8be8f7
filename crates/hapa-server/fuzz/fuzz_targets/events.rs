//! Any prompt, streamed: the events are framed as they must be, and their texts joined are the answer that comes whole.
#![no_main]

mod common;

use std::sync::LazyLock;

use axum::body::Body;
use axum::http::Request;
use common::{Api, Reply};
use hapa_model::testing::TinyModel;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

static API: LazyLock<Api> = LazyLock::new(|| {
    let model = tempfile::NamedTempFile::new().unwrap().into_temp_path().keep().unwrap();
    TinyModel::qwen2().write(&model).unwrap();
    Api::new(&model)
});

fn ask(path: &str, body: &Value) -> Reply {
    let request = Request::post(path).header("host", "localhost").header("content-type", "application/json");
    API.ask(request.body(Body::from(body.to_string())).unwrap())
}

/// The data of the events, by the rules of the standard that matter here.
fn data(reply: &Reply) -> Vec<Value> {
    let text = std::str::from_utf8(&reply.body).expect("events are UTF-8");
    assert!(text.ends_with("\n\n") && !text.contains('\r'));
    let mut found = Vec::new();
    for event in text.trim_end_matches('\n').split("\n\n") {
        let lines: Vec<&str> = event.split('\n').collect();
        let named = |name: &str| lines.iter().filter_map(|line| line.strip_prefix(name)).collect::<Vec<_>>();
        let (events, data) = (named("event: "), named("data: "));
        assert_eq!((events.len() + data.len(), data.len()), (lines.len(), 1), "{event:?}");
        if data[0] != "[DONE]" {
            found.push(serde_json::from_str(data[0]).expect("data is JSON"));
        }
    }
    found
}

fuzz_target!(|input: (u8, u8, String)| {
    let (dialect, tokens, prompt) = input;
    let max_tokens = tokens % 24 + 1;
    let (path, mut body, whole, delta) = match dialect % 3 {
        0 => ("/v1/completions", json!({ "prompt": prompt }), "/choices/0/text", "/choices/0/text"),
        1 => (
            "/v1/messages",
            json!({ "messages": [{ "role": "user", "content": prompt }] }),
            "/content/0/text",
            "/delta/text",
        ),
        _ => ("/infill", json!({ "input_prefix": prompt }), "/content", "/content"),
    };
    body["max_tokens"] = json!(max_tokens);
    body["n_predict"] = json!(max_tokens);
    let answer = ask(path, &body);
    body["stream"] = json!(true);
    let streamed = ask(path, &body);
    assert_eq!(answer.status, streamed.status, "{}", String::from_utf8_lossy(&streamed.body));
    if !answer.status.is_success() {
        assert_ne!(answer.status.as_u16(), 500, "{}", String::from_utf8_lossy(&answer.body));
        return;
    }
    let answer: Value = serde_json::from_slice(&answer.body).unwrap();
    let text = answer.pointer(whole).and_then(Value::as_str).unwrap_or_default();
    let events = data(&streamed);
    let joined: String = events.iter().filter_map(|event| event.pointer(delta)?.as_str()).collect();
    assert_eq!(joined, text);
});
