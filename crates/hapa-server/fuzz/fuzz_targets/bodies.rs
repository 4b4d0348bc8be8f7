//! Any bytes as the body of any route: the answer is never a fault of the server, and errors are JSON.
//!
//! There is no model, so that a good request ends with 503 and a bad one is refused before.
#![no_main]

mod common;

use std::path::Path;
use std::sync::LazyLock;

use axum::body::Body;
use axum::http::Request;
use common::Api;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

static API: LazyLock<Api> = LazyLock::new(|| Api::new(Path::new("nowhere.gguf")));

const ROUTES: [&str; 13] = [
    "/api/v1/code/generate",
    "/api/v1/code/generate/batch",
    "/api/v1/code/complete",
    "/api/v1/validation/validate",
    "/api/v1/validation/validate/batch",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/infill",
    "/completion",
    "/tokenize",
    "/detokenize",
];

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (route, body) = input;
    let path = ROUTES[usize::from(route) % ROUTES.len()];
    let request = Request::post(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Body::from(body))
        .unwrap();
    let reply = API.ask(request);
    assert_ne!(reply.status.as_u16(), 500, "{path}: {}", String::from_utf8_lossy(&reply.body));
    let answer: Value = serde_json::from_slice(&reply.body).expect("answers are JSON");
    let is_error = answer.get("error_code").or(answer.get("error")).is_some_and(|error| !error.is_null());
    assert_eq!(is_error, !reply.status.is_success(), "{path}: {answer}");
});
