//! What `hapa doctor` asks of the store.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::store::manage::{Leftover, StoredModel};
use crate::store::options::Store;
use crate::store::pip::Pip;
use crate::store::progress::ProgressSink;
use crate::store::route::call;

/// How long the hub may take to answer.
const HUB_LIMIT: Duration = Duration::from_secs(3);

/// The state of a store and of the ways to more models.
#[derive(Debug, Clone)]
pub struct StoreReport {
    /// HAPA's folder.
    pub home: PathBuf,
    /// Whether models can be written there: tried, not guessed from permissions.
    pub writable: bool,
    /// Bytes that this user may still write there; `None` when the system does not say.
    pub available_bytes: Option<u64>,
    /// Models on this machine.
    pub models: Vec<StoredModel>,
    /// What interrupted downloads left.
    pub leftovers: Vec<Leftover>,
    /// Fetching is forbidden, by option or `HF_HUB_OFFLINE`.
    pub offline: bool,
    /// The hub.
    pub hub: HubReport,
    /// What pip says about itself; `None` when it is not there, and with it no way to the Python package index.
    pub pip: Option<String>,
}

/// Whether the hub answers.
#[derive(Debug, Clone)]
pub struct HubReport {
    /// Its address.
    pub endpoint: String,
    /// A token is set.
    pub token: bool,
    /// The HTTP status and the time until it came, or why none came within 3 seconds. `None` when offline.
    pub answer: Option<Result<(u16, Duration), String>>,
}

impl Store {
    /// Looks at everything that a load may need. Takes at most some seconds; fetches nothing.
    pub fn doctor(&self, sink: &dyn ProgressSink) -> StoreReport {
        let home = self.home().to_owned();
        StoreReport {
            writable: is_writable(&home),
            available_bytes: existing(&home).and_then(|f| self.inner.disk.available_bytes(f).ok()),
            models: self.list(),
            leftovers: self.leftovers(),
            offline: self.inner.offline,
            hub: self.ask_hub(sink),
            pip: Pip::candidates(self.inner.python.as_deref()).iter().find_map(Pip::version),
            home,
        }
    }

    fn ask_hub(&self, sink: &dyn ProgressSink) -> HubReport {
        let hub = &self.inner.hub;
        let answer = (!self.inner.offline).then(|| {
            let url = format!("{}/", hub.endpoint);
            let begun = Instant::now();
            let asked = call(HUB_LIMIT, sink, move || {
                let config = ureq::Agent::config_builder()
                    .http_status_as_error(false)
                    .max_redirects(0)
                    .max_redirects_will_error(false)
                    .timeout_global(Some(HUB_LIMIT));
                let response = config.build().new_agent().head(&url).call();
                response.map(|r| r.status().as_u16()).map_err(|error| error.to_string())
            });
            asked.map(|status| (status, begun.elapsed())).map_err(|error| error.why())
        });
        HubReport { endpoint: hub.endpoint.clone(), token: hub.token.is_some(), answer }
    }
}

/// The folder itself, or the nearest one above it that exists.
fn existing(folder: &Path) -> Option<&Path> {
    folder.ancestors().find(|folder| folder.is_dir())
}

/// Writes a small file there, or in the nearest folder above that exists, and removes it.
fn is_writable(folder: &Path) -> bool {
    let Some(folder) = existing(folder) else { return false };
    let probe = folder.join(format!(".hapa-probe-{}", std::process::id()));
    let written = std::fs::write(&probe, b"probe").is_ok();
    let _ = std::fs::remove_file(&probe);
    written
}
