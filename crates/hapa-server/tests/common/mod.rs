//! A server on a free port with a tiny random model, and a small HTTP/1.1 client that can also misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hapa_metrics::Exporter;
use hapa_model::testing::TinyModel;
use hapa_server::{Server, ServerOptions};
use hapa_service::{ModelRef, Service, ServiceOptions};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub struct TestServer {
    pub address: SocketAddr,
    pub service: Service,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

pub async fn start() -> TestServer {
    start_with(|_| {}, |_| {}).await
}

pub async fn start_model(model: TinyModel) -> TestServer {
    start_all(&model, |_| {}, |_| {}).await
}

pub async fn start_with(
    server: impl FnOnce(&mut ServerOptions),
    service: impl FnOnce(&mut ServiceOptions),
) -> TestServer {
    start_all(&TinyModel::qwen2(), server, service).await
}

async fn start_all(
    model: &TinyModel,
    server: impl FnOnce(&mut ServerOptions),
    service: impl FnOnce(&mut ServiceOptions),
) -> TestServer {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    model.write(&path).unwrap();
    let mut service_options = ServiceOptions::new(ModelRef::Path(path));
    service_options.lazy.load.threads = 1;
    service(&mut service_options);
    let mut options =
        ServerOptions { address: "127.0.0.1:0".parse().unwrap(), ..ServerOptions::default() };
    server(&mut options);
    let service = Service::new(service_options).unwrap();
    let exporter = Exporter::install().unwrap_or_else(|_| Exporter::local());
    let bound =
        Server::with_exporter(options, service.clone(), exporter).unwrap().bind().await.unwrap();
    let address = bound.local_addr();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(bound.serve(async {
        let _ = stopped.await;
    }));
    TestServer { address, service, stop: Some(stop), task, _folder: folder }
}

impl TestServer {
    pub async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(
            "POST",
            path,
            &[("content-type", "application/json")],
            body.to_string().as_bytes(),
        )
        .await
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let mut stream = self.request(method, path, headers, body).await;
        let mut raw = Vec::new();
        // A server that refuses early may reset the connection after its answer.
        let _ = stream.read_to_end(&mut raw).await;
        Reply::parse(&raw)
    }

    /// Sends a request and hands out the connection.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n",
            body.len()
        );
        if !headers.iter().any(|(name, _)| *name == "host") {
            head.push_str(&format!("host: {}\r\n", self.address));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let _ = stream.write_all(body).await;
        stream
    }

    pub fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    pub async fn stopped(mut self) {
        self.stop();
        tokio::time::timeout(Duration::from_secs(20), self.task)
            .await
            .expect("the server stops")
            .unwrap();
    }
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn parse(raw: &[u8]) -> Self {
        let end = raw.windows(4).position(|window| window == b"\r\n\r\n");
        let end =
            end.unwrap_or_else(|| panic!("no response head in {:?}", String::from_utf8_lossy(raw)));
        let head = std::str::from_utf8(&raw[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| {
                let (name, value) = line.split_once(':').unwrap();
                (name.to_ascii_lowercase(), value.trim().to_owned())
            })
            .collect();
        let chunked =
            headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let body = &raw[end + 4..];
        Self { status, headers, body: if chunked { unchunk(body) } else { body.to_vec() } }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// The data of all events; comments are left out.
    pub fn events(&self) -> Vec<String> {
        assert_eq!(self.header("content-type"), Some("text/event-stream"), "{self:?}");
        let text = self.text();
        assert!(text.ends_with("\n\n"), "each event ends with an empty line");
        let events =
            text.split("\n\n").filter(|event| !event.is_empty() && !event.starts_with(':'));
        events
            .map(|event| {
                event
                    .strip_prefix("data: ")
                    .unwrap_or_else(|| panic!("odd event {event:?}"))
                    .to_owned()
            })
            .collect()
    }
}

fn unchunk(mut raw: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = raw.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&raw[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&raw[end + 2..end + 2 + size]);
        raw = &raw[end + 4 + size..];
    }
    panic!("the body is cut: {:?}", String::from_utf8_lossy(&body));
}

pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
