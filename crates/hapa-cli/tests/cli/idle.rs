//! What connections cost that do nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use hapa_model::testing::TinyModel;

use crate::sandbox::Sandbox;
use crate::serve::Running;

/// Bytes of memory that a process holds, `VmRSS`, or held at most, `VmHWM`.
fn memory(process: u32, which: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix(':')).unwrap();
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
    let count = count.map_or(2_400, |count| count.parse::<usize>().unwrap());
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let mut command = sandbox.hapa(&["serve", "--port", "0", "-m", &model]);
    command.env("HAPA_SERVER_HEADER_TIMEOUT", "1h");
    let server = Running::start(command);
    let process = server.child().id();
    let before = memory(process, "VmRSS");
    let mut open: Vec<TcpStream> = Vec::new();
    let (lots, mut each) = (12, usize::MAX);
    for _ in 0..lots {
        // What those before held while they were awake is at the disposal of the next lot, whether the system has it back or not. A lot
        // that happens to open faster than all before it has more awake at once, so one thrifty lot is enough: with
        // buffers that stay there is none.
        let most = memory(process, "VmHWM");
        open.extend((0..count / lots).map(|_| connection(&server)));
        let grown = memory(process, "VmRSS").saturating_sub(most);
        each = each.min(grown / (count / lots));
        std::thread::sleep(Duration::from_millis(700));
    }
    let all = memory(process, "VmRSS").saturating_sub(before);
    eprintln!("{} idle connections: {all} bytes, {each} for each of a lot", open.len());
    assert!(each < 10_000, "{each} bytes each");
    // All of them live.
    for stream in &mut open {
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
    }
}
