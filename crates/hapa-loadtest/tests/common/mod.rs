//! A fake server on a free port: what it answers, and when, is a script.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

/// What the server does, one thing after another. The connection stays open at the end of a script.
#[derive(Clone)]
pub enum Step {
    Wait(Duration),
    Send(Vec<u8>),
    /// Waits for the one lock that all requests share, and holds it that long.
    Hold(Duration),
    /// Closes the connection.
    Close,
    /// Closes all connections and listens no more.
    Die,
}

/// A request as it was received.
#[derive(Clone, Debug)]
pub struct Received {
    pub number: u64,
    pub line: String,
    pub headers: HashMap<String, String>,
    pub body: String,
}

type Script = dyn Fn(&Received) -> Vec<Step> + Send + Sync;

struct Shared {
    script: Box<Script>,
    count: AtomicU64,
    dead: AtomicBool,
    end: watch::Sender<bool>,
    lock: tokio::sync::Mutex<()>,
    received: Mutex<Vec<Received>>,
    keep: bool,
}

pub struct Fake {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    pub fn start(script: impl Fn(&Received) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", true, script)
    }

    pub fn start_at(
        address: &str,
        keep: bool,
        script: impl Fn(&Received) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            count: AtomicU64::new(0),
            dead: AtomicBool::new(false),
            end: watch::channel(false).0,
            lock: tokio::sync::Mutex::new(()),
            received: Mutex::new(Vec::new()),
            keep,
        });
        let stop = Arc::new(Notify::new());
        let (inner, stopping) = (shared.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = listen(listener, inner) => stopping.notified().await,
                    () = stopping.notified() => {}
                }
            });
        });
        Self { address, shared, stop, thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn listen(listener: TcpListener, shared: Arc<Shared>) {
    let mut end = shared.end.subscribe();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                stream.set_nodelay(true).unwrap();
                tokio::spawn(connection(stream, shared.clone()));
            }
            _ = end.wait_for(|dead| *dead) => return,
        }
    }
}

async fn connection(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut end = shared.end.subscribe();
    tokio::select! {
        _ = serve(&mut stream, &shared) => {}
        _ = end.wait_for(|dead| *dead) => {}
    }
}

async fn serve(stream: &mut TcpStream, shared: &Shared) -> Option<()> {
    let mut buffer = Vec::new();
    loop {
        let mut request = read_request(stream, &mut buffer).await?;
        request.number = shared.count.fetch_add(1, SeqCst);
        let steps = (shared.script)(&request);
        if shared.keep {
            shared.received.lock().unwrap().push(request);
        }
        for step in steps {
            match step {
                Step::Wait(time) => tokio::time::sleep(time).await,
                Step::Send(bytes) => stream.write_all(&bytes).await.ok()?,
                Step::Hold(time) => {
                    let _guard = shared.lock.lock().await;
                    tokio::time::sleep(time).await;
                }
                Step::Close => return None,
                Step::Die => {
                    shared.end.send_replace(true);
                    return None;
                }
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Received> {
    let mut chunk = [0; 16384];
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(buffer[..end].to_vec()).unwrap();
            let mut lines = head.split("\r\n");
            let line = lines.next()?.to_owned();
            let headers: HashMap<String, String> = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect();
            let length = headers.get("content-length").map_or(0, |text| text.parse().unwrap());
            while buffer.len() < end + 4 + length {
                let read = stream.read(&mut chunk).await.ok().filter(|read| *read > 0)?;
                buffer.extend_from_slice(&chunk[..read]);
            }
            let body = String::from_utf8(buffer[end + 4..end + 4 + length].to_vec()).unwrap();
            buffer.drain(..end + 4 + length);
            return Some(Received { number: 0, line, headers, body });
        }
        let read = stream.read(&mut chunk).await.ok().filter(|read| *read > 0)?;
        buffer.extend_from_slice(&chunk[..read]);
    }
}

/// A whole response.
pub fn respond(status: u16, kind: &str, extra: &str, body: &str) -> Step {
    let length = body.len();
    Step::Send(
        format!(
            "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n{extra}\r\n{body}"
        )
        .into_bytes(),
    )
}

/// The head of a stream of events.
pub fn stream_head(extra: &str) -> Step {
    Step::Send(
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n{extra}\r\n"
        )
        .into_bytes(),
    )
}

/// A chunk of a body.
pub fn chunk(text: &str) -> Step {
    Step::Send(format!("{:x}\r\n{text}\r\n", text.len()).into_bytes())
}

pub fn delta(text: &str) -> Step {
    chunk(&format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"
    ))
}

pub fn done(input: u64, output: u64) -> Vec<Step> {
    vec![
        chunk(&format!(
            "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":{input},\"completion_tokens\":{output}}}}}\n\n"
        )),
        chunk("data: [DONE]\n\n"),
        Step::Send(b"0\r\n\r\n".to_vec()),
    ]
}

/// A streamed answer: the first token after `first`, `tokens` in all, `gap` between them.
pub fn streamed(extra: &str, first: Duration, gap: Duration, tokens: u64) -> Vec<Step> {
    let mut steps = vec![stream_head(extra), Step::Wait(first), delta("a")];
    for _ in 1..tokens {
        steps.extend([Step::Wait(gap), delta("b")]);
    }
    steps.extend(done(7, tokens));
    steps
}
