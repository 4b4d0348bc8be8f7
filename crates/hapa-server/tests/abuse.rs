//! Bad input, bad manners, and the shapes of errors.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod common;

use std::time::Duration;

use common::{Reply, start, start_with, until};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The error with what differs from run to run replaced.
fn shape(reply: &Reply) -> String {
    let mut body = reply.json();
    if let Some(timestamp) = body.pointer_mut("/error_details/timestamp") {
        assert_eq!(timestamp.as_str().map(str::len), Some(20), "{timestamp}");
        *timestamp = json!("<time>");
    }
    let retry = reply
        .header("retry-after")
        .map(|seconds| format!("\nretry-after: {seconds}"))
        .unwrap_or_default();
    format!("{}{retry}\n{}", reply.status, serde_json::to_string_pretty(&body).unwrap())
}

const ID: (&str, &str) = ("x-request-id", "test-1");
const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_the_shape_of_the_api_that_was_asked() {
    let server = start_with(|options| options.max_body_bytes = 4096, |_| {}).await;
    let large = json!({ "user_question": "x".repeat(5_000) }).to_string();
    let long = json!({ "prompt": "x ".repeat(1_500) }).to_string();
    let cases: [(&str, &str, &str, &[u8]); 14] = [
        ("unknown_route", "GET", "/nothing", b""),
        ("unknown_route_v1", "GET", "/v1/nothing", b""),
        ("wrong_method", "GET", "/api/v1/code/generate", b""),
        ("wrong_method_v1", "DELETE", "/v1/chat/completions", b""),
        ("bad_json", "POST", "/api/v1/code/generate", b"{\"user_question\": "),
        ("bad_json_v1", "POST", "/v1/chat/completions", b"{\"messages\": ["),
        (
            "wrong_type",
            "POST",
            "/api/v1/code/generate",
            b"{\"user_question\": \"a\", \"max_tokens\": -1}",
        ),
        (
            "wrong_type_v1",
            "POST",
            "/v1/chat/completions",
            b"{\"messages\": [{\"role\": \"king\", \"content\": \"a\"}]}",
        ),
        ("missing_field", "POST", "/api/v1/code/complete", b"{}"),
        ("not_utf8", "POST", "/api/v1/code/generate", b"{\"user_question\": \"\xff\"}"),
        ("empty_prompt", "POST", "/api/v1/code/generate", b"{\"user_question\": \"  \"}"),
        ("empty_prompt_v1", "POST", "/v1/completions", b"{\"prompt\": \"\"}"),
        (
            "unknown_model_v1",
            "POST",
            "/v1/completions",
            b"{\"prompt\": \"a\", \"model\": \"gpt-9\"}",
        ),
        ("prompt_too_long_v1", "POST", "/v1/completions", long.as_bytes()),
    ];
    for (name, method, path, body) in cases {
        let reply = server.send(method, path, &[ID, JSON], body).await;
        assert_eq!(reply.header("x-request-id"), Some("test-1"), "{name}");
        insta::assert_snapshot!(name, shape(&reply));
    }
    let reply = server.send("POST", "/api/v1/code/generate", &[ID, JSON], large.as_bytes()).await;
    insta::assert_snapshot!("too_large", shape(&reply));
    let reply = server
        .send("POST", "/api/v1/code/generate", &[ID, ("content-type", "text/plain")], b"{}")
        .await;
    insta::assert_snapshot!("wrong_content_type", shape(&reply));
    let reply = server.send("GET", "/health", &[ID, ("host", "evil.example")], b"").await;
    insta::assert_snapshot!("wrong_host", shape(&reply));
    assert_eq!(server.get("/api/v1/code/generate").await.header("allow"), Some("POST"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_length_is_bounded_too() {
    let server = start_with(|options| options.max_body_bytes = 4096, |_| {}).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /api/v1/code/generate HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..100 {
        let chunk = format!("400\r\n{}\r\n", " ".repeat(1024));
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    let mut raw = Vec::new();
    let _ = stream.read_to_end(&mut raw).await;
    assert_eq!(Reply::parse(&raw).status, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_the_design() {
    let server = start().await;
    let post = async |body: Value| server.post("/api/v1/code/generate", &body).await;
    let reply = post(json!({ "user_question": "x".repeat(10_001) })).await;
    assert_eq!(
        (reply.status, &reply.json()["error_details"]["field"]),
        (422, &json!("user_question"))
    );
    let reply = post(json!({ "user_question": "x", "code_context": "y".repeat(50_001) })).await;
    assert_eq!(
        (reply.status, &reply.json()["error_details"]["field"]),
        (422, &json!("code_context"))
    );
    for (field, value) in [
        ("temperature", json!(3)),
        ("max_tokens", json!(0)),
        ("stop", json!([""])),
        ("top_p", json!(0)),
    ] {
        let mut body = json!({ "user_question": "x" });
        body[field] = value;
        let reply = post(body).await;
        assert_eq!((reply.status, &reply.json()["error_details"]["field"]), (422, &json!(field)));
    }
    assert!(server.service.stats().model.is_none(), "a refused request loads nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_its_generation() {
    let server = start().await;
    drop(server.service.load().await.unwrap());
    let engine = || server.service.stats().engine.unwrap();
    let streaming = json!({ "prompt": "a", "max_tokens": 400, "stream": true }).to_string();
    let mut stream = server.request("POST", "/v1/completions", &[JSON], streaming.as_bytes()).await;
    let mut first = [0u8; 600];
    let _ = stream.read(&mut first).await.unwrap();
    drop(stream);
    until("the streamed generation is cancelled", || engine().cancelled_requests == 1).await;

    // Not streaming: nothing was sent yet when the client goes.
    let whole = json!({ "prompt": "b", "max_tokens": 400 }).to_string();
    let stream = server.request("POST", "/v1/completions", &[JSON], whole.as_bytes()).await;
    until("it runs", || engine().running == 1 || engine().finished_requests > 0).await;
    drop(stream);
    until("nothing runs any more", || engine().running == 0 && engine().waiting == 0).await;
    until("no generation is in flight", || server.service.stats().flights.in_flight == 0).await;
    assert_eq!(engine().kv.held_pages, 0);
    let metrics = server.get("/metrics").await;
    assert!(
        metrics.text().contains("status=\"499\"") || engine().finished_requests > 0,
        "{}",
        metrics.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_bring_nothing_are_closed() {
    let server =
        start_with(|options| options.header_timeout = Duration::from_millis(200), |_| {}).await;
    for sent in ["", "P", "GET / HTTP/1.1\r\nhost: loc"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let closed =
            tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "still open after {sent:?}");
    }
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_body_is_given_up() {
    let server =
        start_with(|options| options.body_timeout = Duration::from_millis(200), |_| {}).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut raw = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut raw)).await;
    assert!(read.is_ok());
    assert_eq!(Reply::parse(&raw).status, 408);
}

#[tokio::test(flavor = "multi_thread")]
async fn compression_for_json_and_not_for_events() {
    let server = start().await;
    let gzip = [JSON, ("accept-encoding", "gzip")];
    let body = json!({ "code": "def f(:\n".repeat(40) }).to_string();
    let reply = server.send("POST", "/api/v1/validation/validate", &gzip, body.as_bytes()).await;
    assert_eq!((reply.status, reply.header("content-encoding")), (200, Some("gzip")));
    assert_eq!(&reply.body[..2], [0x1f, 0x8b]);
    let small = server.send("GET", "/ready", &gzip, b"").await;
    assert_eq!(small.header("content-encoding"), None, "tiny bodies are not worth it");
    let body = json!({ "prompt": "a", "max_tokens": 100, "stream": true }).to_string();
    let events = server.send("POST", "/v1/completions", &gzip, body.as_bytes()).await;
    assert_eq!(events.header("content-encoding"), None);
    assert_eq!(events.events().last().map(String::as_str), Some("[DONE]"));
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_lets_answers_finish_and_then_stops() {
    let mut server = start().await;
    drop(server.service.load().await.unwrap());
    let body = json!({ "prompt": "a", "max_tokens": 60, "stream": true }).to_string();
    let mut stream = server.request("POST", "/v1/completions", &[JSON], body.as_bytes()).await;
    let mut raw = vec![0u8; 300];
    let first = stream.read(&mut raw).await.unwrap();
    raw.truncate(first);
    server.stop();
    stream.read_to_end(&mut raw).await.unwrap();
    assert_eq!(
        Reply::parse(&raw).events().last().map(String::as_str),
        Some("[DONE]"),
        "the answer under way is whole"
    );
    let address = server.address;
    server.stopped().await;
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grace_time_ends_what_does_not_end() {
    let server = start_with(|options| options.grace = Duration::from_millis(100), |_| {}).await;
    // An idle kept-alive connection and one in the middle of a request.
    let mut half = TcpStream::connect(server.address).await.unwrap();
    half.write_all(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.stopped().await;
    let mut rest = Vec::new();
    assert!(
        tokio::time::timeout(Duration::from_secs(5), half.read_to_end(&mut rest)).await.is_ok()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overloaded_server_says_when_to_come_back() {
    let server = start_with(
        |_| {},
        |options| {
            options.lazy.load.max_sequences = 1;
            options.lazy.load.queue_limit = 1;
        },
    )
    .await;
    drop(server.service.load().await.unwrap());
    let mut open = Vec::new();
    for number in 0..2 {
        let body =
            json!({ "prompt": format!("{number}"), "max_tokens": 450, "stream": true }).to_string();
        open.push(server.request("POST", "/v1/completions", &[JSON], body.as_bytes()).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut refused = None;
    for number in 0..20 {
        let reply = server
            .post(
                "/api/v1/code/generate",
                &json!({ "user_question": format!("q{number}"), "max_tokens": 1 }),
            )
            .await;
        if reply.status == 503 {
            refused = Some(reply);
            break;
        }
        // The tiny model was faster than this test: fill the queue again.
        let body =
            json!({ "prompt": format!("again {number}"), "max_tokens": 450, "stream": true })
                .to_string();
        open.push(server.request("POST", "/v1/completions", &[JSON], body.as_bytes()).await);
        open.push(
            server
                .request(
                    "POST",
                    "/v1/completions",
                    &[JSON],
                    body.replace("again", "more").as_bytes(),
                )
                .await,
        );
    }
    let refused = refused.expect("a full queue refuses");
    assert_eq!(refused.json()["error_code"], "OVERLOADED");
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
}
