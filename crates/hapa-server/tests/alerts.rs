//! A fault reaches a webhook, signed and in spite of a receiver that fails at first; so does its end.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod common;

use std::time::Duration;

use common::start_with;
use hapa_model::testing::TinyModel;
use hapa_server::{AlertOptions, Webhook};
use hapa_service::ModelRef;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Head and body of one request, which is answered with the status.
async fn receive(listener: &TcpListener, status: u16) -> (String, String) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let text = read(&mut stream).await;
    let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(answer.as_bytes()).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.to_owned())
}

async fn read(stream: &mut TcpStream) -> String {
    let mut raw = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).await.unwrap();
        raw.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&raw).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = header(&head.to_lowercase(), "content-length").parse().unwrap();
        if body.len() >= length || count == 0 {
            return text;
        }
    }
}

fn header(head: &str, name: &str) -> String {
    let line = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
    line.unwrap_or_else(|| panic!("no {name} in {head}")).to_owned()
}

/// The alert in a message whose signature fits.
fn open(head: &str, body: &str) -> Value {
    let mut mac = Hmac::<Sha256>::new_from_slice(b"a secret").unwrap();
    mac.update(format!("{}.{body}", header(head, "x-hapa-timestamp")).as_bytes());
    let hex: String =
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(header(head, "x-hapa-signature"), format!("sha256={hex}"));
    serde_json::from_str(body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_and_its_end_reach_the_webhook() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/alerts", listener.local_addr().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    std::fs::write(&model, b"this is no model").unwrap();
    let path = model.clone();
    let mut alerts =
        AlertOptions { interval: Duration::from_millis(100), ..AlertOptions::default() };
    alerts.thresholds.hold = Duration::ZERO;
    // Only the one that this test is about.
    (alerts.thresholds.error_ratio, alerts.thresholds.first_token_p95) = (None, None);
    (alerts.thresholds.memory_ratio, alerts.thresholds.kv_usage_ratio) = (None, None);
    alerts.webhook = Some(Webhook { secret: Some("a secret".to_owned()), ..Webhook::new(url) });
    let server = start_with(
        |options| options.alerts = alerts,
        |service| service.model = ModelRef::Path(path),
    )
    .await;

    let ask = json!({ "user_question": "add", "max_tokens": 4 });
    assert!(server.post("/api/v1/code/generate", &ask).await.status >= 500);
    let wait = Duration::from_secs(60);
    // The first try fails and is made again.
    let (_, first) = tokio::time::timeout(wait, receive(&listener, 500)).await.unwrap();
    let (head, body) = tokio::time::timeout(wait, receive(&listener, 200)).await.unwrap();
    assert_eq!(first, body);
    let alert = open(&head, &body);
    assert_eq!((&alert["alert"], &alert["firing"]), (&json!("model_load_failing"), &json!(true)));
    assert_eq!(alert["instance"], server.address.to_string());

    TinyModel::qwen2().write(&model).unwrap();
    assert_eq!(server.post("/api/v1/code/generate", &ask).await.status, 200);
    let (head, body) = tokio::time::timeout(wait, receive(&listener, 204)).await.unwrap();
    let alert = open(&head, &body);
    assert_eq!((&alert["alert"], &alert["firing"]), (&json!("model_load_failing"), &json!(false)));
    server.stopped().await;
}
