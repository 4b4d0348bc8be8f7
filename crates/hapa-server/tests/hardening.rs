//! Headers, compression, other origins, slow peers, panics aside.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod common;

use std::time::Duration;

use common::{start, start_with};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test(flavor = "multi_thread")]
async fn every_response_says_what_browsers_must_not_do_with_it() {
    let server = start().await;
    let body = b"{\"code\": \"x = 1\"}";
    let replies = [
        server.get("/health").await,
        server.get("/nothing").await,
        server.get("/").await,
        server.send("POST", "/api/v1/validation/validate", &[JSON], body).await,
        server.send("POST", "/v1/chat/completions", &[JSON], b"{").await,
    ];
    for reply in &replies {
        let policy = reply.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(reply.header(name), Some(value), "{name} of {reply:?}");
            assert_eq!(reply.headers.iter().filter(|(found, _)| found == name).count(), 1);
        }
        assert_eq!(reply.header("strict-transport-security"), None, "not encrypted");
        assert_eq!(reply.header("access-control-allow-origin"), None);
    }
    assert_eq!(replies[0].header("cache-control"), Some("no-store"));
    assert_eq!(replies[2].header("cache-control"), Some("no-cache"), "the page knows better");
}

#[tokio::test(flavor = "multi_thread")]
async fn text_is_compressed_as_the_client_likes() {
    let server = start().await;
    for (accepted, used) in [
        ("gzip", Some("gzip")),
        ("br", Some("br")),
        ("zstd", Some("zstd")),
        ("gzip, br;q=0.5, zstd;q=0.1", Some("gzip")),
        ("identity", None),
        ("gzip;q=0", None),
        ("nonsense, ;;;q=", None),
    ] {
        let reply =
            server.send("GET", "/openapi.json", &[("accept-encoding", accepted)], b"").await;
        assert_eq!((reply.status, reply.header("content-encoding")), (200, used), "{accepted}");
        assert!(reply.header("vary").is_some(), "{accepted}");
    }
    let whole = server.get("/openapi.json").await.body.len();
    let small = server.send("GET", "/openapi.json", &[("accept-encoding", "br")], b"").await;
    assert!(small.body.len() * 4 < whole, "{} of {whole}", small.body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_leave_one_by_one_whatever_the_client_accepts() {
    let server = start().await;
    drop(server.service.load().await.unwrap());
    let body = json!({ "prompt": "a", "max_tokens": 400, "stream": true }).to_string();
    let accepts = [JSON, ("accept-encoding", "gzip, br, zstd")];
    let mut stream = server.request("POST", "/v1/completions", &accepts, body.as_bytes()).await;
    let mut seen = String::new();
    while !seen.contains("data: {") {
        let mut piece = [0; 64];
        let count = stream.read(&mut piece).await.unwrap();
        assert!(count > 0, "{seen}");
        seen.push_str(std::str::from_utf8(&piece[..count]).unwrap());
    }
    assert!(seen.contains("x-accel-buffering: no") && !seen.contains("content-encoding"), "{seen}");
    drop(stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_need_to_be_configured() {
    let app = ("origin", "https://app.example");
    let wants = [
        app,
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization, x-stainless-lang"),
    ];
    let closed = start().await;
    let reply = closed.send("OPTIONS", "/v1/chat/completions", &wants, b"").await;
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (405, None));

    let server =
        start_with(|options| options.cors_origins = vec!["https://app.example".to_owned()], |_| {})
            .await;
    let reply = server.send("OPTIONS", "/v1/chat/completions", &wants, b"").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(reply.header("access-control-allow-methods"), Some("GET,POST"));
    assert_eq!(
        reply.header("access-control-allow-headers"),
        Some("authorization, x-stainless-lang")
    );
    assert_eq!(reply.header("access-control-allow-credentials"), None);
    // Errors too, or the page could not read what went wrong.
    let error = server.send("POST", "/v1/chat/completions", &[app, JSON], b"{").await;
    assert_eq!(
        (error.status, error.header("access-control-allow-origin")),
        (400, Some("https://app.example"))
    );
    assert!(error.header("access-control-expose-headers").unwrap().contains("x-request-id"));
    assert!(error.header("vary").unwrap().contains("origin"));
    let mut other = wants;
    other[0] = ("origin", "https://evil.example");
    let reply = server.send("OPTIONS", "/v1/chat/completions", &other, b"").await;
    assert_eq!(reply.header("access-control-allow-origin"), None);
    let reply = server.send("GET", "/health", &[("origin", "null")], b"").await;
    assert_eq!(reply.header("access-control-allow-origin"), None);
    // No preflight, just a method that no route has.
    assert_eq!(server.send("OPTIONS", "/health", &[app], b"").await.status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_is_cut() {
    let server =
        start_with(|options| options.write_timeout = Duration::from_millis(300), |_| {}).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(server.address).await.unwrap();
    let asked = 2_000;
    let requests = "GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(asked);
    // The server stops to read when it cannot write.
    let _ =
        tokio::time::timeout(Duration::from_secs(2), stream.write_all(requests.as_bytes())).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut raw = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut raw)).await;
    assert!(read.is_ok(), "the connection is still open");
    let whole = server.get("/openapi.json").await.body.len();
    assert!(raw.len() < whole * asked, "everything was sent");
}

/// Longer than a connection keeps its buffers while nothing happens.
const PAUSE: Duration = Duration::from_millis(1_200);

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_goes_on_after_a_pause() {
    let server = start().await;
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let request = "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let (half, rest) = request.split_at(20);
    let last = request.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    for part in ["", request, half, rest, &request.repeat(2), &last] {
        stream.write_all(part.as_bytes()).await.unwrap();
        tokio::time::sleep(PAUSE).await;
    }
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).await.unwrap();
    let text = String::from_utf8(raw).unwrap();
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 5, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_late_gets_everything() {
    let server = start().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let (mut reader, mut writer) = socket.connect(server.address).await.unwrap().into_split();
    let asked = 100;
    let request = "GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let last = request.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    let requests = request.repeat(asked - 1) + &last;
    let writing = tokio::spawn(async move {
        writer.write_all(requests.as_bytes()).await.unwrap();
        writer
    });
    tokio::time::sleep(PAUSE).await;
    let mut raw = Vec::new();
    reader.read_to_end(&mut raw).await.unwrap();
    drop(writing.await.unwrap());
    let whole = server.get("/openapi.json").await.body.len();
    let text = String::from_utf8(raw).unwrap();
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), asked);
    assert!(text.len() > whole * asked, "{} of {}", text.len(), whole * asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_of_any_depth_is_an_error_and_nothing_worse() {
    let server = start().await;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep =
            format!("{{\"user_question\": {}1{}}}", open.repeat(100_000), close.repeat(100_000));
        let reply = server.send("POST", "/api/v1/code/generate", &[JSON], deep.as_bytes()).await;
        assert_eq!(reply.status, 422, "{:?}", reply.text());
        // As a value that is taken as it comes: the schema of an answer.
        let schema = format!("{}1{}", open.repeat(50_000), close.repeat(50_000));
        let body = format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"x\"}}], \"response_format\": {{\"type\": \"json_schema\", \
             \"json_schema\": {{\"name\": \"a\", \"schema\": {schema}}}}}}}"
        );
        let reply = server.send("POST", "/v1/chat/completions", &[JSON], body.as_bytes()).await;
        assert_eq!(reply.status, 400, "{:?}", reply.text());
    }
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_connections_as_there_are_places() {
    let server = start_with(|options| options.max_connections = 2, |_| {}).await;
    let open = || tokio::net::TcpStream::connect(server.address);
    let (first, _second) = (open().await.unwrap(), open().await.unwrap());
    let mut third = open().await.unwrap();
    third.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    let early =
        tokio::time::timeout(Duration::from_millis(200), third.read_exact(&mut answer)).await;
    assert!(early.is_err(), "there was no place for it");
    drop(first);
    let late = tokio::time::timeout(Duration::from_secs(10), third.read_exact(&mut answer)).await;
    late.expect("its turn comes").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keys_pages_of_other_origins_may_start_nothing() {
    let server =
        start_with(|options| options.cors_origins = vec!["https://app.example".to_owned()], |_| {})
            .await;
    let from = |site: &'static str, origin: &'static str| {
        [("sec-fetch-site", site), ("origin", origin), JSON]
    };
    let evil = from("cross-site", "https://evil.example");
    for path in ["/stats", "/debug/profile?seconds=60", "/debug/heap?seconds=60", "/v1/models"] {
        let reply = server.send("GET", path, &evil, b"").await;
        assert_eq!(reply.status, 403, "{path}");
        assert!(reply.text().contains("cors_origins"), "{}", reply.text());
    }
    let body = b"{\"code\": \"x = 1\"}";
    let path = "/api/v1/validation/validate";
    assert_eq!(server.send("POST", path, &evil, body).await.status, 403);
    let neighbour = from("same-site", "http://localhost:3000");
    assert_eq!(server.send("POST", path, &neighbour, body).await.status, 403);
    let named = from("cross-site", "https://app.example");
    assert_eq!(server.send("POST", path, &named, body).await.status, 200);
    // The page itself may be linked to, and asks from its own origin.
    assert_eq!(server.send("GET", "/", &evil[..1], b"").await.status, 200);
    let own = from("same-origin", "http://localhost");
    assert_eq!(server.send("POST", path, &own, body).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sends_too_much_hears_so() {
    let server = start().await;
    let body = vec![b' '; 8 << 20];
    let length = format!("content-length: {}", body.len());
    for framing in [length.as_str(), "transfer-encoding: chunked"] {
        for _ in 0..4 {
            let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
            let head = format!(
                "POST /api/v1/validation/validate HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n{framing}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            if framing.starts_with("content") {
                stream.write_all(&body).await.expect("all of it can be sent");
            } else {
                stream.write_all(format!("{:x}\r\n", body.len()).as_bytes()).await.unwrap();
                stream.write_all(&body).await.expect("all of it can be sent");
                stream.write_all(b"\r\n0\r\n\r\n").await.unwrap();
            }
            let mut raw = Vec::new();
            stream.read_to_end(&mut raw).await.expect("the answer comes whole");
            assert_eq!(common::Reply::parse(&raw).status, 413);
        }
    }
    // Who waits for the word sends nothing in vain.
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST /infill HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-type: application/json\r\n{length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).await.unwrap();
    assert!(raw.starts_with(b"HTTP/1.1 413"), "{}", String::from_utf8_lossy(&raw));
}

#[tokio::test(flavor = "multi_thread")]
async fn work_beside_generations_has_deadlines_and_bounds() {
    let server = start().await;
    let validate = "/api/v1/validation/validate";
    let post = async |path: &str, timeout: &str, body: serde_json::Value| {
        let headers = [JSON, ("x-request-timeout", timeout)];
        server.send("POST", path, &headers, body.to_string().as_bytes()).await
    };
    let message = json!([{ "role": "user", "content": "x" }]);
    for (path, body) in [
        (validate, json!({ "code": "x" })),
        ("/api/v1/validation/validate/batch", json!({ "code_snippets": [{ "code": "x" }] })),
        ("/tokenize", json!({ "content": "x" })),
        ("/detokenize", json!({ "tokens": [1] })),
        ("/v1/messages/count_tokens", json!({ "messages": message })),
    ] {
        let refused = post(path, "soon", body.clone()).await;
        assert!(matches!(refused.status, 400 | 422), "{path}: {refused:?}");
        assert!(refused.text().contains("x-request-timeout"), "{}", refused.text());
        assert_eq!(post(path, "60", body).await.status, 200, "{path}");
    }
    let long = json!({ "code": "x = [1, 2]\n".repeat(18_000) });
    let late = post(validate, "0.000001", long).await;
    assert_eq!((late.status, &late.json()["error_code"]), (504, &json!("DEADLINE_EXCEEDED")));
    // What nests too deep is refused before it takes a stack of hundreds of megabytes.
    let deep = post(validate, "60", json!({ "code": "(".repeat(199_000) })).await;
    assert_eq!((deep.status, &deep.json()["is_valid"]), (200, &json!(false)));
    assert!(deep.text().contains("nests more than"), "{}", deep.text());
}
