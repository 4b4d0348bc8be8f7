//! A Hugging Face hub on loopback: listings, redirects to a storage host, ranges, and all that can go wrong.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const REPO: &str = "someone/some-model";

/// What the next answers are like.
#[derive(Default, Clone)]
pub(crate) struct Mood {
    /// Statuses that the next requests for files get instead of bytes, in order.
    pub(crate) refusals: Vec<u16>,
    /// Bodies of the next requests for files end after so many bytes, in order.
    pub(crate) cuts: Vec<usize>,
    /// Bodies of the next requests for files fall silent after so many bytes, in order.
    pub(crate) silences: Vec<usize>,
    /// Every request for a repository gets this status.
    pub(crate) listing_status: Option<u16>,
    /// Answer ranges with the whole file.
    pub(crate) ignore_ranges: bool,
    /// Leave sizes and digests out of listings.
    pub(crate) plain_listing: bool,
    /// Flip a bit of every file.
    pub(crate) corrupt: bool,
    /// Pause after every 64 KiB.
    pub(crate) slow: Option<Duration>,
    /// Accept connections and never answer.
    pub(crate) mute: bool,
    /// Only this token may read.
    pub(crate) token: Option<String>,
}

/// A request as the server saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<u64>,
    pub(crate) token: Option<String>,
}

struct File {
    bytes: Vec<u8>,
    lfs: bool,
}

struct Shared {
    files: Mutex<BTreeMap<String, File>>,
    mood: Mutex<Mood>,
    seen: Mutex<Vec<Seen>>,
    storage: Mutex<String>,
    closed: AtomicBool,
}

pub(crate) struct FakeHub {
    shared: Arc<Shared>,
    address: std::net::SocketAddr,
}

impl FakeHub {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let shared = Arc::new(Shared {
            files: Mutex::default(),
            mood: Mutex::default(),
            seen: Mutex::default(),
            // Another name for the same server: as for the real hub, the storage is another host.
            storage: Mutex::new(format!("http://localhost:{}/storage/", address.port())),
            closed: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if serving.closed.load(Ordering::SeqCst) {
                    return;
                }
                let serving = Arc::clone(&serving);
                std::thread::spawn(move || while serve(&serving, &stream).is_some() {});
            }
        });
        Self { shared, address }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8], lfs: bool) {
        let file = File { bytes: bytes.to_vec(), lfs };
        self.shared.files.lock().expect("lock").insert(name.to_owned(), file);
    }

    pub(crate) fn set(&self, mood: Mood) {
        *self.shared.mood.lock().expect("lock") = mood;
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("lock").clone()
    }

    /// Requests that went to the storage for bytes.
    pub(crate) fn fetches(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|s| s.path.starts_with("/storage/")).collect()
    }

    pub(crate) fn forget(&self) {
        self.shared.seen.lock().expect("lock").clear();
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// Serves one request; `None` ends the connection.
fn serve(shared: &Shared, stream: &TcpStream) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let request = lines.next()?.ok()?;
    let mut words = request.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut range, mut token) = (None, None);
    for line in lines {
        let line = line.ok()?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                range = value.trim().strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok();
            }
            "authorization" => token = value.trim().strip_prefix("Bearer ").map(str::to_owned),
            _ => {}
        }
    }
    let seen = Seen { method: method.clone(), path: path.clone(), range, token: token.clone() };
    shared.seen.lock().expect("lock").push(seen);
    let mood = shared.mood.lock().expect("lock").clone();
    if mood.mute {
        std::thread::sleep(Duration::from_secs(20));
        return None;
    }
    let head_only = method == "HEAD";
    if let Some(name) = path.strip_prefix("/storage/") {
        return send_bytes(shared, stream, name, range.filter(|_| !mood.ignore_ranges));
    }
    if mood.token.is_some() && mood.token != token {
        return answer(stream, 401, &[], b"", head_only);
    }
    if let Some(status) = mood.listing_status {
        return answer(stream, status, &[], b"", head_only);
    }
    if path.starts_with(&format!("/api/models/{REPO}/revision/")) {
        let body = listing(shared, mood.plain_listing);
        return answer(stream, 200, &[], body.as_bytes(), head_only);
    }
    // A renamed repository answers with a relative redirect first.
    if let Some(rest) = path.strip_prefix("/old-owner/some-model/") {
        return answer(stream, 307, &[("Location", format!("/{REPO}/{rest}"))], b"", head_only);
    }
    let file =
        path.strip_prefix(&format!("/{REPO}/resolve/"))?.split_once('/')?.1.replace("%20", " ");
    let files = shared.files.lock().expect("lock");
    let Some(found) = files.get(&file) else { return answer(stream, 404, &[], b"", head_only) };
    let etag = if found.lfs { sha256(&found.bytes) } else { git_sha1(&found.bytes) };
    let headers = [
        (
            "Location",
            format!("{}{}", shared.storage.lock().expect("lock"), file.replace(' ', "%20")),
        ),
        ("X-Linked-Etag", format!("\"{etag}\"")),
        ("X-Linked-Size", found.bytes.len().to_string()),
        ("X-Repo-Commit", COMMIT.to_owned()),
    ];
    answer(stream, 302, &headers, b"", head_only)
}

fn listing(shared: &Shared, plain: bool) -> String {
    let files = shared.files.lock().expect("lock");
    let siblings: Vec<String> = files
        .iter()
        .map(|(name, file)| {
            let size = file.bytes.len();
            if plain {
                format!(r#"{{"rfilename":"{name}"}}"#)
            } else if file.lfs {
                let digest = sha256(&file.bytes);
                format!(
                    r#"{{"rfilename":"{name}","blobId":"{COMMIT}","size":{size},"lfs":{{"sha256":"{digest}","size":{size},"pointerSize":134}}}}"#
                )
            } else {
                let blob = git_sha1(&file.bytes);
                format!(r#"{{"rfilename":"{name}","blobId":"{blob}","size":{size}}}"#)
            }
        })
        .collect();
    format!(r#"{{"id":"{REPO}","sha":"{COMMIT}","siblings":[{}]}}"#, siblings.join(","))
}

fn send_bytes(shared: &Shared, stream: &TcpStream, name: &str, range: Option<u64>) -> Option<()> {
    let mut bytes =
        shared.files.lock().expect("lock").get(&name.replace("%20", " "))?.bytes.clone();
    let (refusal, cut, silence, corrupt, slow) = {
        let mut mood = shared.mood.lock().expect("lock");
        let first = |list: &mut Vec<usize>| (!list.is_empty()).then(|| list.remove(0));
        let refusal = (!mood.refusals.is_empty()).then(|| mood.refusals.remove(0));
        if refusal.is_some() {
            (refusal, None, None, false, None)
        } else {
            (None, first(&mut mood.cuts), first(&mut mood.silences), mood.corrupt, mood.slow)
        }
    };
    if let Some(status) = refusal {
        return answer(stream, status, &[("Retry-After", "0".to_owned())], b"", false);
    }
    if corrupt {
        bytes[7] ^= 1;
    }
    let total = bytes.len();
    let start = usize::try_from(range.unwrap_or(0)).ok()?.min(total);
    let body = &bytes[start..];
    let mut head = match range {
        Some(_) => format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{}/{total}\r\n",
            total - 1
        ),
        None => "HTTP/1.1 200 OK\r\n".to_owned(),
    };
    head.push_str(&format!("ETag: \"storage\"\r\nContent-Length: {}\r\n\r\n", body.len()));
    let mut stream = stream;
    stream.write_all(head.as_bytes()).ok()?;
    let sent = cut.or(silence).unwrap_or(body.len()).min(body.len());
    for chunk in body[..sent].chunks(64 << 10) {
        stream.write_all(chunk).ok()?;
        if let Some(pause) = slow {
            std::thread::sleep(pause);
        }
    }
    if silence.is_some() {
        std::thread::sleep(Duration::from_secs(20));
    }
    (sent == body.len()).then_some(())
}

fn answer(
    mut stream: &TcpStream,
    status: u16,
    headers: &[(&str, String)],
    body: &[u8],
    head_only: bool,
) -> Option<()> {
    let mut head = format!("HTTP/1.1 {status} Something\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    if !head_only {
        stream.write_all(body).ok()?;
    }
    Some(())
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(crate) fn git_sha1(bytes: &[u8]) -> String {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    hex(&hasher.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
