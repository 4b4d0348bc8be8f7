//! A server under measurement, and the one request that it is asked: a streamed completion.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(600);

/// A child process that listens on loopback; killed when dropped.
pub(super) struct Server {
    child: Child,
    address: String,
    started: Instant,
}

impl Server {
    /// Starts a program with `--port` and a free port. Does not wait for it.
    pub(super) fn start(mut command: Command) -> Result<Self> {
        Self::start_with(|port| {
            command.args(["--port", &port.to_string()]);
            Ok(command)
        })
    }

    /// Starts a program that is told of a free port in its own way. Does not wait for it.
    pub(super) fn start_with(command: impl FnOnce(u16) -> Result<Command>) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = command(port)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("could not start {command:?}"))?;
        Ok(Self { child, address: format!("127.0.0.1:{port}"), started })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Time from sending a prompt to the first piece of the answer. Waits for a server that is not up yet.
    pub(super) fn time_to_first_token(&self, prompt: &str) -> Result<Duration> {
        let (sent, first) = self.first_token_when_up(prompt)?;
        Ok(first - sent)
    }

    /// When the request that was answered was sent, and when its first token came.
    fn first_token_when_up(&self, prompt: &str) -> Result<(Instant, Instant)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let sent = Instant::now();
            match self.first_token(prompt) {
                Ok(Some(first)) => return Ok((sent, first)),
                // Still loading.
                Ok(None) => {}
                // Not up yet, unless it said no.
                Err(error) if !error.is::<std::io::Error>() => return Err(error),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => {}
            }
            ensure!(Instant::now() < deadline, "{} did not answer in time", self.address);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends one request and tells when its first token came; `None` when the server says that it is loading.
    fn first_token(&self, prompt: &str) -> Result<Option<Instant>> {
        let body = json!({"model": "default", "prompt": prompt, "max_tokens": 4, "temperature": 0, "stream": true});
        let body = body.to_string();
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "POST /v1/completions HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        )?;
        let mut lines = BufReader::new(stream);
        let mut status = String::new();
        lines.read_line(&mut status)?;
        if status.contains(" 503 ") {
            return Ok(None);
        }
        let mut line = String::new();
        while lines.read_line(&mut line)? > 0 {
            if let Some(event) = line.trim_end().strip_prefix("data: ") {
                let event: Value = serde_json::from_str(event).unwrap_or_default();
                if event.pointer("/choices/0/text").is_some() {
                    let first = Instant::now();
                    // The rest is short; a cancelled request would disturb the next.
                    lines.read_to_string(&mut String::new())?;
                    return Ok(Some(first));
                }
            }
            line.clear();
        }
        bail!("{} ended with `{}` and no token", self.address, status.trim_end())
    }

    /// Most memory that the process held, in MB, after so many long prompts at once.
    pub(super) fn peak_of_long_prompts(&self, count: usize) -> Result<f64> {
        self.time_to_first_token("warm up")?;
        std::thread::scope(|scope| -> Result<()> {
            let asked: Vec<_> = (0..count)
                .map(|n| {
                    scope.spawn(move || self.time_to_first_token(&super::long_prompt(1000 + n)))
                })
                .collect();
            for asked in asked {
                asked.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
            }
            Ok(())
        })?;
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: f64 = line
            .and_then(|line| line.split_whitespace().next()?.parse().ok())
            .with_context(|| format!("{path} has no VmHWM"))?;
        Ok(kib * 1024.0 / 1e6)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Asked first: one that has children of its own ends them, which a kill would leave behind.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        for _ in 0..300 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Seconds from the start of a server's process to the first token of its first answer.
pub(super) fn from_start(serve: impl FnOnce() -> Result<Server>) -> Result<f64> {
    let server = serve()?;
    let (_, first) = server.first_token_when_up("def add(a, b):\n")?;
    Ok((first - server.started).as_secs_f64())
}

/// Empties the page cache where this process may; says whether it did.
pub(super) fn drop_page_cache() -> bool {
    let _ = Command::new("sync").status();
    std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}
