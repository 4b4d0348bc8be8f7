//! A real Prometheus scrapes a real server: rules, exposition, an alert that comes and goes, every query of the dashboard.
//!
//! Needs Debian's package `prometheus`, which `cargo xtask test` installs; without it the tests say so and pass, unless
//! `HAPA_REQUIRE_TOOLS` is set.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod common;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Reply, TestServer, start_with};
use hapa_model::testing::TinyModel;
use hapa_service::ModelRef;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

/// Whether the package is there.
fn has_prometheus() -> bool {
    let runs = |program: &str| {
        let mut command = Command::new(program);
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let there = runs("promtool") && runs("prometheus");
    let required = std::env::var_os("HAPA_REQUIRE_TOOLS").is_some();
    assert!(there || !required, "install the package `prometheus` (cargo xtask test does)");
    if !there {
        eprintln!("skipped: the package `prometheus` is not installed");
    }
    there
}

/// Runs promtool in `deploy/prometheus`, with something to read, and expects success.
fn promtool(arguments: &[&str], input: &str) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(deploy().join("prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

#[test]
fn the_rules_are_valid_and_do_what_they_say() {
    if has_prometheus() {
        promtool(&["check", "rules", "hapa.rules.yml"], "");
        promtool(&["check", "config", "prometheus.yml"], "");
        promtool(&["test", "rules", "hapa.test.yml"], "");
    }
}

/// A Prometheus that is gone when the test is.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// Scrapes and evaluates each second; the rules are the shipped ones, waiting seconds where those wait minutes.
    fn start(target: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let rules = std::fs::read_to_string(deploy().join("prometheus/hapa.rules.yml")).unwrap();
        let mut quick = String::new();
        for line in rules.lines() {
            match line.split_once("for: ") {
                Some((indent, _)) if indent.trim().is_empty() => {
                    quick.push_str(&format!("{indent}for: 1s\n"));
                }
                _ => quick.push_str(&format!("{line}\n")),
            }
        }
        std::fs::write(folder.path().join("rules.yml"), quick).unwrap();
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [rules.yml]\nscrape_configs:\n  \
             - {{job_name: hapa, static_configs: [{{targets: ['{target}']}}]}}\n"
        );
        std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let child = Command::new("prometheus")
            .current_dir(folder.path())
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg("--log.level=error")
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, address, _folder: folder }
    }

    /// The data of a request to its API; `None` before it listens.
    async fn get(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(self.address).await.ok()?;
        let head =
            format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.address);
        stream.write_all(head.as_bytes()).await.ok()?;
        let mut raw = Vec::new();
        stream.read_to_end(&mut raw).await.ok()?;
        let reply = Reply::parse(&raw);
        if reply.status == 503 {
            return None; // Not ready yet.
        }
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        Some(reply.json()["data"].clone())
    }

    /// Samples that a query gives now.
    async fn query(&self, query: &str) -> Vec<Value> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let data = self.get(&format!("/api/v1/query?query={encoded}")).await;
        data.and_then(|data| data["result"].as_array().cloned()).unwrap_or_default()
    }

    /// Waits until an alert fires, or until none of that name does.
    async fn wait_for(&self, alert: &str, firing: bool) {
        let query = format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}");
        let deadline = Instant::now() + Duration::from_secs(90);
        while self.query(&query).await.is_empty() == firing {
            let what = if firing { "fires" } else { "is over" };
            assert!(Instant::now() < deadline, "waited in vain until {alert} {what}");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Requests of every kind: new, repeated, completed, streamed, wrong.
async fn load(server: &TestServer, round: usize) {
    let ask = |question: String| json!({ "user_question": question, "max_tokens": 8 });
    server.post("/api/v1/code/generate", &ask(format!("question {round}"))).await;
    server.post("/api/v1/code/generate", &ask("the same".to_owned())).await;
    let complete = json!({ "prefix": format!("x{round} = "), "max_tokens": 4 });
    server.post("/api/v1/code/complete", &complete).await;
    let messages = json!([{ "role": "user", "content": format!("hello {round}") }]);
    let chat = json!({ "messages": messages, "max_tokens": 4, "stream": true });
    server.post("/v1/chat/completions", &chat).await;
    server.post("/api/v1/code/generate", &ask(String::new())).await;
}

/// Every query of the dashboard, with what Grafana would put in for its variables.
fn dashboard() -> Vec<String> {
    fn walk(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    match value {
                        Value::String(text) if key == "expr" => found.push(text.clone()),
                        value => walk(value, found),
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|value| walk(value, found)),
            _ => {}
        }
    }
    let text = std::fs::read_to_string(deploy().join("grafana/hapa.json")).unwrap();
    let mut found = Vec::new();
    walk(&serde_json::from_str(&text).unwrap(), &mut found);
    let fill = |query: &String| query.replace("$instance", ".*").replace("$__rate_interval", "15s");
    found.iter().map(fill).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_come_and_go_and_every_panel_shows_something() {
    if !has_prometheus() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    std::fs::write(&model, b"this is no model").unwrap();
    let path = model.clone();
    let server = start_with(|_| {}, move |service| service.model = ModelRef::Path(path)).await;
    let prometheus = Prometheus::start(server.address);

    // The fault: a file that is no model.
    let ask = json!({ "user_question": "add", "max_tokens": 4 });
    let reply = server.post("/api/v1/code/generate", &ask).await;
    assert!(reply.status >= 500, "{}", reply.text());
    prometheus.wait_for("HapaModelLoadFailing", true).await;
    let (annotations, panels): (Vec<String>, Vec<String>) =
        dashboard().into_iter().partition(|query| query.starts_with("ALERTS"));
    assert!(annotations.len() == 1 && panels.len() > 30, "{annotations:?} {}", panels.len());
    assert!(!prometheus.query(&annotations[0]).await.is_empty(), "the alert is on the dashboard");

    // Removed: the next request loads the model.
    TinyModel::qwen2().write(&model).unwrap();
    let reply = server.post("/api/v1/code/generate", &ask).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    prometheus.wait_for("HapaModelLoadFailing", false).await;

    // Under load, until each panel has data.
    let deadline = Instant::now() + Duration::from_secs(90);
    let mut empty = panels;
    for round in 0.. {
        load(&server, round).await;
        if round % 5 == 4 {
            let mut still = Vec::new();
            for query in empty {
                if prometheus.query(&query).await.is_empty() {
                    still.push(query);
                }
            }
            empty = still;
            if empty.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "no data under load: {empty:#?}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    let metrics = server.get("/metrics").await;
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    promtool(&["check", "metrics"], metrics.text());
    server.stopped().await;
}
