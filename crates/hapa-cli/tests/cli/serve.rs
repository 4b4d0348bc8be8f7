//! `hapa serve`: from start to the end of the process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command};

use hapa_model::testing::TinyModel;

use crate::sandbox::{Sandbox, signal};

/// A server that is killed when the test ends.
pub(crate) struct Running {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
    url: String,
    address: String,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let (_, url) = line.trim().split_once(" at ").unwrap_or_else(|| panic!("{line}"));
        let (_, address) = url.split_once("://").unwrap_or_else(|| panic!("{line}"));
        Self { url: url.to_owned(), address: address.to_owned(), child, stderr }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// The next line of standard error.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        line
    }

    /// A connection on which a request was sent.
    pub(crate) fn open(&self, head: &str, body: &str) -> TcpStream {
        self.open_with(head, "", body)
    }

    /// The same with more headers, each with its line end.
    pub(crate) fn open_with(&self, head: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        write!(
            stream,
            "{head} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        )
        .unwrap();
        stream
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn child(&self) -> &Child {
        &self.child
    }

    /// The whole response to a request without a body that has more headers, each with its line end.
    pub(crate) fn ask_with(&self, head: &str, headers: &str) -> String {
        let port = self.address.rsplit(':').next().unwrap();
        let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        write!(stream, "{head} HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n{headers}\r\n")
            .unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    /// The whole response to a request.
    pub(crate) fn ask(&self, head: &str, body: &str) -> String {
        let mut response = String::new();
        self.open(head, body).read_to_string(&mut response).unwrap();
        response
    }

    /// Waits for the end; the exit code and the rest of standard error.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

#[test]
fn serves_until_it_is_told_to_stop() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let server = Running::start(sandbox.hapa(&["serve", "--port", "0", "-m", &model]));
    assert!(server.ask("GET /health", "").starts_with("HTTP/1.1 200"));
    let body = "{\"prefix\": \"x = \", \"max_tokens\": 4}";
    let answer = server.ask("POST /api/v1/code/complete", body);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("completions"), "{answer}");
    signal(&server.child, "TERM");
    let (code, rest) = server.end();
    assert_eq!(code, Some(0), "{rest}");
    assert!(rest.contains("may finish") && !rest.contains("panicked"), "{rest}");
}

#[test]
fn ctrl_c_and_preloading() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let mut server =
        Running::start(sandbox.hapa(&["serve", "--port", "0", "--preload", "-m", &model]));
    assert_eq!(server.line(), "tiny is loaded\n");
    assert!(server.ask("GET /ready", "").starts_with("HTTP/1.1 200"));
    signal(&server.child, "INT");
    assert_eq!(server.end().0, Some(130));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2().context_length(8192));
    let server = Running::start(sandbox.hapa(&["serve", "--port", "0", "-m", &model]));
    // An open event stream that nobody reads keeps a graceful end waiting.
    let body = "{\"prompt\": \"x\", \"max_tokens\": 8000, \"stream\": true}";
    let mut stream = server.open("POST /v1/completions", body);
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    signal(&server.child, "INT");
    std::thread::sleep(std::time::Duration::from_millis(200));
    signal(&server.child, "INT");
    assert_eq!(server.end().0, Some(130));
}

#[test]
fn addresses_that_cannot_be_had() {
    let sandbox = Sandbox::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    sandbox
        .run(&["serve", "--port", &port])
        .refused(1, &["could not listen", &port, "another port"]);
    sandbox.run(&["serve", "--host", "0.0.0.0"]).refused(1, &["0.0.0.0", "hapa keys create"]);
    sandbox.run(&["serve", "--host", "no.such.host.invalid"]).refused(2, &["no.such.host.invalid"]);
    assert_eq!(sandbox.run(&["serve", "--port", "99999"]).code, Some(2));
}
