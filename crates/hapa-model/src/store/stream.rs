//! Fetching one file of the hub: resumed by ranges, retried, cancelled within a tenth of a second, verified.
//!
//! Each request runs on a thread of its own and hands its bytes over a bounded channel. The thread that hashes and
//! writes therefore never sits in a system call on the network, and can stop at once. What is there of a file survives
//! any number of requests and processes; a `.json` beside the part says which digest it was started for.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use ureq::Agent;

use crate::error::ModelError;
use crate::store::hub::{Hub, header};
use crate::store::layout::{part, write_atomically};
use crate::store::part::{Expected, PartFile};
use crate::store::progress::{LoadEvent, ProgressSink, Route, Throttle};
use crate::store::route::{POLL, RouteError, check, sleep};
use crate::store::space::Disk;

const READ_BYTES: usize = 128 << 10;
const CHUNKS_AHEAD: usize = 16;
/// Longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// One file to fetch.
pub(crate) struct Download<'a> {
    pub(crate) hub: &'a Hub,
    pub(crate) repo: &'a str,
    pub(crate) revision: &'a str,
    pub(crate) file: &'a str,
    pub(crate) expected: Expected,
    pub(crate) target: &'a Path,
    pub(crate) disk: &'a dyn Disk,
    pub(crate) report: Report<'a>,
}

/// How a download of several files counts.
#[derive(Clone, Copy)]
pub(crate) struct Report<'a> {
    /// The model's name.
    pub(crate) name: &'a str,
    /// Bytes of the files before this one.
    pub(crate) before_bytes: u64,
    /// Bytes of all files.
    pub(crate) total_bytes: u64,
}

enum Message {
    Head(Head),
    Bytes(Vec<u8>),
    End,
    /// The answer broke off.
    Failed(String),
    /// There was no answer at all.
    Unreached(String),
}

struct Head {
    status: u16,
    /// First byte of the answer within the file.
    start: u64,
    /// Length of the whole file, if the server says.
    total: Option<u64>,
    retry_after: Option<Duration>,
}

/// How one request ended.
enum Ended {
    Whole,
    /// Worth another request, after at least this pause; with the reason.
    Again(Duration, String),
    /// The hub did not answer at all, for this reason.
    Unreached(String),
}

impl Download<'_> {
    /// Where an interrupted fetch of `target` over the hub is kept.
    pub(crate) fn part_path(target: &Path) -> PathBuf {
        part(target, "hub")
    }

    /// Fetches, verifies and names the file. Returns its SHA-256.
    pub(crate) fn run(&self, sink: &dyn ProgressSink) -> Result<String, RouteError> {
        let continued = self.kept_bytes() > 0;
        match self.attempt(sink) {
            Err(RouteError::WrongBytes(error)) if continued => {
                // What an earlier process left may have been damaged: once more, from the first byte.
                tracing::warn!(%error, "a continued download came out wrong; fetching it anew");
                self.attempt(sink)
            }
            result => result,
        }
    }

    fn state_path(&self) -> PathBuf {
        Self::part_path(self.target).with_added_extension("json")
    }

    /// Bytes of an earlier try that belong to this very file.
    fn kept_bytes(&self) -> u64 {
        let Some(identity) = self.expected.identity() else { return 0 };
        let same = std::fs::read_to_string(self.state_path()).is_ok_and(|text| text == identity);
        let there = || std::fs::metadata(Self::part_path(self.target)).map_or(0, |m| m.len());
        if same { there() } else { 0 }
    }

    fn attempt(&self, sink: &dyn ProgressSink) -> Result<String, RouteError> {
        let keep = self.kept_bytes();
        let path = Self::part_path(self.target);
        let mut part = PartFile::open(&path, keep, &self.expected, self.disk, sink)?;
        if let Some(identity) = self.expected.identity() {
            let state = self.state_path();
            write_atomically(&state, identity.as_bytes()).map_err(|source| {
                let action = "note the progress of the download in";
                RouteError::Stop(ModelError::Io { action, path: state, source })
            })?;
        }
        self.transfer(&mut part, sink)?;
        let finished = part.finish(self.target);
        let _ = std::fs::remove_file(self.state_path());
        Ok(finished?)
    }

    /// Requests until the part is whole.
    fn transfer(&self, part: &mut PartFile<'_>, sink: &dyn ProgressSink) -> Result<(), RouteError> {
        let network = &self.hub.settings().network;
        let (mut failures, mut reached) = (0, false);
        while !part.is_whole() {
            let (before, begun) = (part.len(), Instant::now());
            match self.request(part, sink)? {
                Ended::Whole => return Ok(()),
                // A hub that this machine has not reached yet is likely not to be reached at all, and another route
                // may wait: one more try, if the first one did not take long to fail.
                Ended::Unreached(why)
                    if !reached && (failures > 0 || begun.elapsed() > network.connect / 2) =>
                {
                    return Err(RouteError::Failed(format!(
                        "cannot reach {}: {why}",
                        self.hub.settings().endpoint
                    )));
                }
                Ended::Unreached(why) => {
                    failures += 1;
                    if failures > network.retries {
                        return Err(self.given_up(&why, failures, part.len()));
                    }
                    sleep(network.pause(failures), sink)?;
                }
                Ended::Again(pause, why) => {
                    reached = true;
                    // A request that brought something is not a failure: slow lines get there.
                    failures = if part.len() > before { 0 } else { failures + 1 };
                    if failures > network.retries {
                        return Err(self.given_up(&why, failures, part.len()));
                    }
                    tracing::debug!(file = self.file, why, at = part.len(), "retrying");
                    sleep(pause.max(network.pause(failures)), sink)?;
                }
            }
        }
        Ok(())
    }

    fn given_up(&self, why: &str, tries: u32, kept: u64) -> RouteError {
        RouteError::Failed(format!(
            "{why}; gave up after {tries} tries without a new byte ({kept} of {} bytes are kept)",
            self.expected.bytes
        ))
    }

    /// One request, from the first missing byte on.
    fn request(
        &self,
        part: &mut PartFile<'_>,
        sink: &dyn ProgressSink,
    ) -> Result<Ended, RouteError> {
        let from = part.len();
        let url = self.hub.url(self.repo, self.revision, self.file);
        let token = self.hub.settings().token.clone();
        let messages = open(self.hub.agent().clone(), url, token, from)?;
        let again = |why: String| Ok(Ended::Again(Duration::ZERO, why));
        let mut throttle = Throttle::new();
        let mut last = Instant::now();
        let mut reported = from;
        loop {
            check(sink)?;
            let message = match messages.recv_timeout(POLL) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) if last.elapsed() < self.patience() => {
                    // What came since the last report, before the line fell silent.
                    if reported != part.len() {
                        reported = part.len();
                        self.progress(reported, sink);
                    }
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {
                    return again(format!("silence for {} s", last.elapsed().as_secs()));
                }
                Err(RecvTimeoutError::Disconnected) => return again("the request died".to_owned()),
            };
            last = Instant::now();
            match message {
                Message::Head(head) => match self.judge(&head, part)? {
                    None => {}
                    Some(ended) => return Ok(ended),
                },
                Message::Bytes(bytes) => {
                    if bytes.len() as u64 > part.missing() {
                        part.restart()?;
                        return Err(RouteError::Failed(format!(
                            "the hub sends more than the {} bytes it announced",
                            self.expected.bytes
                        )));
                    }
                    part.append(&bytes)?;
                    if throttle.due() || part.is_whole() {
                        reported = part.len();
                        self.progress(reported, sink);
                    }
                }
                Message::End if part.is_whole() => return Ok(Ended::Whole),
                Message::End => return again("the connection ended early".to_owned()),
                Message::Failed(why) => return again(why),
                Message::Unreached(why) => return Ok(Ended::Unreached(why)),
            }
        }
    }

    /// Decides from an answer's head: `None` to read its body, or how the request ended.
    fn judge(&self, head: &Head, part: &mut PartFile<'_>) -> Result<Option<Ended>, RouteError> {
        let bytes = self.expected.bytes;
        match head.status {
            200 | 206 => {
                if let Some(total) = head.total
                    && total != bytes
                {
                    return Err(RouteError::Failed(format!(
                        "the hub's file has {total} bytes, expected {bytes}"
                    )));
                }
                if head.start != part.len() {
                    // The server ignored the range, or chose another: take what it sends only if that is the beginning.
                    part.restart()?;
                    if head.start != 0 {
                        let why = format!("asked for a range, got one from {}", head.start);
                        return Ok(Some(Ended::Again(Duration::ZERO, why)));
                    }
                }
                Ok(None)
            }
            416 => {
                part.restart()?;
                Ok(Some(Ended::Again(Duration::ZERO, "HTTP 416: range refused".to_owned())))
            }
            status @ (408 | 429 | 500..600) => {
                let pause = head.retry_after.unwrap_or_default().min(LONGEST_PAUSE);
                Ok(Some(Ended::Again(pause, format!("HTTP {status}"))))
            }
            status => Err(self.hub.refusal(status, self.repo)),
        }
    }

    fn progress(&self, here: u64, sink: &dyn ProgressSink) {
        sink.event(&LoadEvent::Fetching {
            name: self.report.name.to_owned(),
            route: Route::Hub,
            received_bytes: self.report.before_bytes + here,
            total_bytes: self.report.total_bytes,
        });
    }

    /// Silence after which a request is given up even if its own timeouts did not notice.
    fn patience(&self) -> Duration {
        let network = &self.hub.settings().network;
        network.connect.saturating_add(network.stall).saturating_mul(2)
    }
}

/// Starts a request on a thread of its own.
fn open(
    agent: Agent,
    url: String,
    token: Option<String>,
    from: u64,
) -> Result<Receiver<Message>, RouteError> {
    let (sender, receiver) = sync_channel(CHUNKS_AHEAD);
    std::thread::Builder::new()
        .name("hapa-fetch".to_owned())
        .spawn(move || {
            if let Err(failed) = send_all(&agent, &url, token.as_deref(), from, &sender) {
                // Nobody listens when the download was abandoned.
                let _ = sender.send(failed);
            }
        })
        .map_err(|error| RouteError::Failed(format!("no thread for the request: {error}")))?;
    Ok(receiver)
}

/// Sends the answer's head and body; returns early, and well, when nobody listens any more.
fn send_all(
    agent: &Agent,
    url: &str,
    token: Option<&str>,
    from: u64,
    sender: &SyncSender<Message>,
) -> Result<(), Message> {
    let mut request = agent.get(url);
    if let Some(token) = token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    if from > 0 {
        request = request.header("Range", format!("bytes={from}-"));
    }
    let response = request.call().map_err(|error| Message::Unreached(error.to_string()))?;
    let status = response.status().as_u16();
    let headers = response.headers();
    let range = header(headers, "content-range").and_then(content_range);
    let length = header(headers, "content-length").and_then(|text| text.parse::<u64>().ok());
    let (start, total) = match (status, range) {
        (206, Some(range)) => range,
        (206, None) => return Err(Message::Failed("a range without Content-Range".to_owned())),
        _ => (0, length),
    };
    let retry_after =
        header(headers, "retry-after").and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let good = matches!(status, 200 | 206);
    if sender.send(Message::Head(Head { status, start, total, retry_after })).is_err() || !good {
        return Ok(());
    }
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                if sender.send(Message::Bytes(buffer[..read].to_vec())).is_err() {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Message::Failed(error.to_string())),
        }
    }
    let _ = sender.send(Message::End);
    Ok(())
}

/// First byte and whole length of `bytes 5-9/10`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-')?.0.trim().parse().ok()?;
    Some((start, total.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::content_range;

    #[test]
    fn ranges_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 0-9/*"), Some((0, None)));
        assert_eq!(content_range("items 0-9/10"), None);
        assert_eq!(content_range("bytes */10"), None);
    }
}
