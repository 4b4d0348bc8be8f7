//! More sequences than the KV cache has pages for, and one that it can never hold.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod common;

use common::{Reply, TestServer, start_with, until};
use futures_util::future::join_all;
use serde_json::{Value, json};

/// Bytes of 32 tokens' keys and values, as halves: two layers, two heads of 32 numbers.
const PAGE_BYTES: usize = 32 * 2 * 2 * 2 * 32 * 2;
const PAGES: u64 = 6;
const ROUNDS: usize = 50;

async fn small() -> TestServer {
    let small = |options: &mut hapa_service::ServiceOptions| {
        options.lazy.load.kv_budget_bytes = Some(PAGES as usize * PAGE_BYTES);
        options.lazy.load.context_tokens = Some(512);
    };
    start_with(|_| {}, small).await
}

/// Computed, whatever was asked before.
async fn ask(server: &TestServer, body: Value) -> Reply {
    let headers = [("content-type", "application/json"), ("cache-control", "no-cache, no-store")];
    server.send("POST", "/v1/completions", &headers, body.to_string().as_bytes()).await
}

fn question(number: usize) -> Value {
    let prompt = format!("def function_{number}(a, b): return a + b * {number}");
    json!({ "prompt": prompt, "max_tokens": 128, "temperature": 0 })
}

fn text(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["choices"][0]["text"].as_str().unwrap().to_owned()
}

fn preemptions(server: &TestServer) -> u64 {
    server.service.stats().engine.unwrap().preemptions
}

async fn nothing_is_held(server: &TestServer) {
    until("the engine is idle", || {
        let engine = server.service.stats().engine.unwrap();
        (engine.running, engine.waiting, engine.kv.held_pages) == (0, 0, 0)
    })
    .await;
    let stats = server.get("/stats").await.json();
    let engine = &stats["performance_metrics"]["engine"];
    assert_eq!(engine["requests_running"], 0, "{stats}");
    assert_eq!(engine["kv_held_pages"], 0);
    assert_eq!(engine["kv_total_pages"], PAGES);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_pages_hold_is_answered_in_turn_as_it_would_be_alone() {
    let server = small().await;
    let mut alone = Vec::new();
    for number in 0..8 {
        alone.push(text(&ask(&server, question(number)).await));
    }
    // A machine that is busy with others may bring the questions in so slowly that each is answered
    // before the next one comes: then they are asked again.
    for _ in 0..ROUNDS {
        let replies = join_all((0..8).map(|number| ask(&server, question(number)))).await;
        let together: Vec<String> = replies.iter().map(text).collect();
        assert_eq!(together, alone);
        if preemptions(&server) > 0 {
            break;
        }
    }
    assert!(preemptions(&server) > 0, "all of them had room at once, {ROUNDS} times");
    nothing_is_held(&server).await;
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_fit_is_told_so_and_not_to_come_back() {
    let server = small().await;
    // Two tokens each: less than the context, more than all pages.
    let prompt = "x ".repeat(150);
    let refused = ask(&server, json!({ "prompt": prompt, "max_tokens": 4 })).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert_eq!(refused.header("retry-after"), None);
    let error = &refused.json()["error"];
    assert_eq!(error["code"], "context_length_exceeded");
    assert_eq!(error["type"], "invalid_request_error");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("the KV cache holds 192"), "{message}");
    assert!(message.contains("engine.kv_memory"), "{message}");
    let messages = json!([{ "role": "user", "content": prompt }]);
    let body = json!({ "messages": messages, "max_tokens": 4 });
    let refused = server.post("/v1/messages", &body).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert_eq!(refused.json()["error"]["type"], "invalid_request_error");
    assert!(refused.text().contains("engine.kv_memory"), "{}", refused.text());
    let body = json!({ "user_question": prompt, "max_tokens": 4 });
    let refused = server.post("/api/v1/code/generate", &body).await;
    assert_eq!(refused.status, 422, "{}", refused.text());
    assert_eq!(refused.header("retry-after"), None);
    assert_eq!(refused.json()["error_code"], "VALIDATION_ERROR");
    nothing_is_held(&server).await;
    text(&ask(&server, question(1)).await);
    server.stopped().await;
}
