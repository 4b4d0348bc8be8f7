//! What connections cost that do nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use hapa_model::testing::TinyModel;

use crate::sandbox::Sandbox;
use crate::serve::Running;

/// Bytes of memory that a process holds.
fn resident(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// A connection that was used once and stays open.
fn connection(server: &Running) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        let mut piece = [0; 1024];
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend(&piece[..count]);
    }
    stream
}

/// How much memory connections take once they were idle for a while: `HAPA_TEST_CONNECTIONS=10000 cargo nextest run -p hapa-cli idle
/// --no-capture`, where as many files may be open.
#[cfg(target_os = "linux")]
#[test]
fn idle_connections_are_cheap() {
    let count = std::env::var("HAPA_TEST_CONNECTIONS").ok();
    let count = count.map_or(1_000, |count| count.parse::<usize>().unwrap());
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let mut command = sandbox.hapa(&["serve", "--port", "0", "-m", &model]);
    command.env("HAPA_SERVER_HEADER_TIMEOUT", "1h");
    let server = Running::start(command);
    // At least as many as are awake at the same moment below: the memory of their buffers serves those after them.
    let awake = count.min(4_000);
    let mut open: Vec<TcpStream> = (0..awake).map(|_| connection(&server)).collect();
    std::thread::sleep(Duration::from_secs(2));
    let base = resident(server.child().id());
    open.extend((0..count).map(|_| connection(&server)));
    let grown = resident(server.child().id()).saturating_sub(base);
    eprintln!("{count} idle connections: {grown} bytes, {} each", grown / count);
    assert!(grown < count * 10_000, "{} bytes each", grown / count);
    // All of them live.
    for stream in &mut open {
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
    }
}
