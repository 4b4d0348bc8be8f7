//! HTTP/2: what it is for, and what it is abused for.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod common;

use std::time::Duration;

use common::{TestServer, start, start_with, until};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A head in HPACK: indexed `:scheme http`, the method, and literals without indexing.
fn head(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0x86];
    let mut literal = |name: &str, value: &str| {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    };
    literal(":method", method);
    literal(":path", path);
    literal(":authority", "localhost");
    for (name, value) in more {
        literal(name, value);
    }
    block
}

/// A connection that has said hello.
async fn connect(server: &TestServer) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    stream
}

/// Reads to the end of the connection; the error code of a GOAWAY on the way.
async fn farewell(stream: &mut TcpStream) -> Option<u32> {
    let mut raw = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut raw)).await;
    assert!(read.is_ok(), "the connection is still open");
    let mut rest = raw.as_slice();
    let mut code = None;
    while rest.len() >= 9 {
        let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
        if rest.len() < 9 + length {
            break;
        }
        if rest[3] == GOAWAY {
            code = Some(u32::from_be_bytes(rest[13..17].try_into().unwrap()));
        }
        rest = &rest[9 + length..];
    }
    code
}

const ENHANCE_YOUR_CALM: u32 = 11;

#[tokio::test(flavor = "multi_thread")]
async fn requests_share_a_connection() {
    let server = start().await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let driving = tokio::spawn(connection);
    let mut answers = Vec::new();
    for number in 0..40 {
        client = client.ready().await.unwrap();
        let request = axum::http::Request::post("http://localhost/v1/completions")
            .header("content-type", "application/json")
            .body(())
            .unwrap();
        let (answer, mut body) = client.send_request(request, false).unwrap();
        let text = json!({ "prompt": format!("x{number}"), "max_tokens": 2 }).to_string();
        body.send_data(text.into(), true).unwrap();
        answers.push(answer);
    }
    for answer in answers {
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    drop(client);
    driving.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rapid_reset_ends_the_connection_and_leaves_nothing_running() {
    let server = start().await;
    drop(server.service.load().await.unwrap());
    let mut stream = connect(&server).await;
    let body = json!({ "prompt": "a", "max_tokens": 400, "stream": true }).to_string();
    let length = body.len().to_string();
    let block = head(
        "POST",
        "/v1/completions",
        &[("content-type", "application/json"), ("content-length", &length)],
    );
    let mut flood = Vec::new();
    for number in 0..2_000_u32 {
        let id = number * 2 + 1;
        flood.extend(frame(HEADERS, END_HEADERS, id, &block));
        flood.extend(frame(DATA, END_STREAM, id, body.as_bytes()));
        flood.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
    }
    let _ = stream.write_all(&flood).await;
    assert_eq!(farewell(&mut stream).await, Some(ENHANCE_YOUR_CALM));
    let stats = || server.service.stats();
    until("nothing runs", || {
        let engine = stats().engine.unwrap();
        engine.running == 0 && engine.waiting == 0 && engine.kv.held_pages == 0
    })
    .await;
    until("no generation is in flight", || stats().flights.in_flight == 0).await;
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_continuations_ends_the_connection() {
    let server = start().await;
    let mut stream = connect(&server).await;
    stream.write_all(&frame(HEADERS, 0, 1, &head("GET", "/health", &[]))).await.unwrap();
    // Each a small field; none of them ends the head.
    let mut field = vec![0, 1, b'x', 100];
    field.extend([b'y'; 100]);
    let more = frame(CONTINUATION, 0, 1, &field).repeat(100);
    let mut sent = 0;
    for _ in 0..10_000 {
        if stream.write_all(&more).await.is_err() {
            break;
        }
        sent += more.len();
    }
    assert!(sent < 50 << 20, "the server took {sent} bytes of a head");
    farewell(&mut stream).await;
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_continuations_are_not_free_either() {
    let server = start().await;
    let mut stream = connect(&server).await;
    stream.write_all(&frame(HEADERS, 0, 1, &head("GET", "/health", &[]))).await.unwrap();
    let more = frame(CONTINUATION, 0, 1, &[]).repeat(1_000);
    let mut rounds = 0;
    while rounds < 2_000 && stream.write_all(&more).await.is_ok() {
        rounds += 1;
    }
    assert!(rounds < 2_000, "the server took all of them");
    farewell(&mut stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_larger_than_the_limit_are_refused() {
    let server = start().await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut request = axum::http::Request::get("http://localhost/health");
    for number in 0..50 {
        request = request.header(format!("x-{number}"), "y".repeat(1_000));
    }
    let (answer, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
    let refused = match answer.await {
        Ok(response) => response.status() == 431,
        Err(_) => true,
    };
    assert!(refused);
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_requests_is_closed() {
    let server =
        start_with(|options| options.header_timeout = Duration::from_millis(200), |_| {}).await;
    for begun in [&PREFACE[..10], PREFACE] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(begun).await.unwrap();
        farewell(&mut stream).await;
    }
    // One that was used and is idle since.
    let mut stream = connect(&server).await;
    let ask = frame(HEADERS, END_HEADERS | END_STREAM, 1, &head("GET", "/health", &[]));
    stream.write_all(&ask).await.unwrap();
    assert_eq!(farewell(&mut stream).await, Some(0), "a farewell without an error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_holds_back_its_window_is_cut() {
    let server =
        start_with(|options| options.write_timeout = Duration::from_millis(300), |_| {}).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut client, connection) = h2::client::Builder::new()
        .initial_window_size(1_000)
        .handshake::<_, bytes::Bytes>(stream)
        .await
        .unwrap();
    let driving = tokio::spawn(connection);
    let request = axum::http::Request::get("http://localhost/openapi.json").body(()).unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    let mut body = answer.await.unwrap().into_body();
    body.data().await.unwrap().unwrap();
    // Nothing is said of having read it.
    let next = tokio::time::timeout(Duration::from_secs(20), body.data()).await;
    assert!(matches!(next.expect("it is cut"), None | Some(Err(_))));
    drop((client, driving));
}
