//! Stores in temporary folders, and sinks that watch.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hapa_model::store::NetworkOptions;
use hapa_model::{LoadEvent, ProgressSink, Store, StoreOptions};
use tempfile::TempDir;

/// Bytes that do not repeat: a mistake in joining or resuming changes the digest.
pub(crate) fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2) + 1;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

/// An impatient store that knows nothing of this machine's environment.
pub(crate) fn options(dir: &Path, endpoint: &str) -> StoreOptions {
    StoreOptions {
        home: Some(dir.join("home")),
        offline: false,
        hub_endpoint: Some(endpoint.to_owned()),
        hub_token: Some("hf_test".to_owned()),
        hub_cache: Some(dir.join("hf")),
        python: Some(dir.join("no-python-here")),
        network: NetworkOptions {
            connect: Duration::from_secs(2),
            stall: Duration::from_millis(300),
            retries: 3,
            backoff: Duration::from_millis(5),
        },
    }
}

pub(crate) fn store(dir: &TempDir, endpoint: &str) -> Store {
    Store::open(options(dir.path(), endpoint)).expect("open")
}

/// An address where nobody listens.
pub(crate) const NOBODY: &str = "http://127.0.0.1:9";

/// Keeps events, and cancels when told to or when so many bytes are here.
#[derive(Default)]
pub(crate) struct Watch {
    pub(crate) events: Mutex<Vec<LoadEvent>>,
    pub(crate) cancelled: AtomicBool,
    pub(crate) cancel_at: Option<u64>,
}

impl ProgressSink for Watch {
    fn event(&self, event: &LoadEvent) {
        if let (LoadEvent::Fetching { received_bytes, .. }, Some(limit)) = (event, self.cancel_at)
            && *received_bytes >= limit
        {
            self.cancelled.store(true, Ordering::SeqCst);
        }
        self.events.lock().expect("lock").push(event.clone());
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }
}

impl Watch {
    /// What `Fetching` events said, and whether they only went forward.
    pub(crate) fn fetched(&self) -> Vec<u64> {
        let events = self.events.lock().expect("lock");
        let received: Vec<u64> = events
            .iter()
            .filter_map(|event| match event {
                LoadEvent::Fetching { received_bytes, total_bytes, .. } => {
                    assert!(received_bytes <= total_bytes, "{event:?}");
                    Some(*received_bytes)
                }
                _ => None,
            })
            .collect();
        assert!(received.is_sorted(), "progress never goes back: {received:?}");
        received
    }
}

/// Names of all files below a folder, sorted, locks and notes of digests apart.
pub(crate) fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    collect(folder, folder, &mut found);
    found.retain(|name| !name.starts_with("locks/") && !name.ends_with(".sha256.json"));
    found.retain(|name| !name.starts_with("digests/"));
    found.sort();
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(root, &path, found);
        } else {
            found.push(path.strip_prefix(root).expect("below").to_string_lossy().into_owned());
        }
    }
}
