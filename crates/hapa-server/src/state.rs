//! What handlers share.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hapa_metrics::Exporter;
use hapa_profiler::ResponseTimeLogger;
use hapa_service::{ModelRef, Service};
use tokio::sync::watch;

use crate::auth::Keyring;
use crate::life::Life;
use crate::load_pace::LoadPace;
use crate::options::ServerOptions;
use crate::problem::Problem;
use crate::recent::RecentRequests;
use crate::request_id::RequestIds;

/// State of the router; clones share it.
#[derive(Clone)]
pub(crate) struct AppState(Arc<Shared>);

struct Shared {
    service: Service,
    options: watch::Sender<Arc<ServerOptions>>,
    life: Life,
    load_pace: LoadPace,
    exporter: Exporter,
    ids: RequestIds,
    response_times: ResponseTimeLogger,
    recent: RecentRequests,
    started: Instant,
    started_unix: u64,
    model_name: String,
    keyring: Option<Arc<Keyring>>,
}

impl AppState {
    pub(crate) fn new(
        options: ServerOptions,
        service: Service,
        exporter: Exporter,
        keyring: Option<Arc<Keyring>>,
    ) -> Self {
        let model_name = options.model_name.clone().unwrap_or_else(|| name_of(service.reference()));
        Self(Arc::new(Shared {
            model_name,
            keyring,
            service,
            options: watch::Sender::new(Arc::new(options)),
            life: Life::default(),
            load_pace: LoadPace::default(),
            exporter,
            ids: RequestIds::new(),
            response_times: ResponseTimeLogger::new(),
            recent: RecentRequests::default(),
            started: Instant::now(),
            started_unix: unix_seconds(),
        }))
    }

    pub(crate) fn service(&self) -> &Service {
        &self.0.service
    }

    /// The settings in force now.
    pub(crate) fn options(&self) -> Arc<ServerOptions> {
        Arc::clone(&self.0.options.borrow())
    }

    /// The settings in force, and whenever others come to be.
    pub(crate) fn follow_options(&self) -> watch::Receiver<Arc<ServerOptions>> {
        self.0.options.subscribe()
    }

    /// Puts other settings in force, from the next request and connection on.
    pub(crate) fn set_options(&self, options: ServerOptions) {
        self.0.options.send_replace(Arc::new(options));
    }

    /// How far the server's life has come.
    pub(crate) fn life(&self) -> &Life {
        &self.0.life
    }

    /// How fast the model is being loaded.
    pub(crate) fn load_pace(&self) -> &LoadPace {
        &self.0.load_pace
    }

    pub(crate) fn exporter(&self) -> &Exporter {
        &self.0.exporter
    }

    /// The keys, where a file of them is configured.
    pub(crate) fn keyring(&self) -> Option<&Arc<Keyring>> {
        self.0.keyring.as_ref()
    }

    /// Whether nobody gets by without a key.
    pub(crate) fn needs_keys(&self) -> bool {
        self.keyring().is_some_and(|ring| ring.is_needed())
    }

    pub(crate) fn ids(&self) -> &RequestIds {
        &self.0.ids
    }

    pub(crate) fn response_times(&self) -> &ResponseTimeLogger {
        &self.0.response_times
    }

    pub(crate) fn recent(&self) -> &RecentRequests {
        &self.0.recent
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// When the server was made, in seconds since 1970.
    pub(crate) fn started_unix(&self) -> u64 {
        self.0.started_unix
    }

    /// The name of the model on the wire.
    pub(crate) fn model_name(&self) -> &str {
        &self.0.model_name
    }

    /// Checks the model that a request names; none means the one that is served.
    pub(crate) fn check_model(&self, asked: Option<&str>) -> Result<(), Problem> {
        match asked {
            None | Some("" | "hapa" | "default") => Ok(()),
            Some(name) if name == self.model_name() => Ok(()),
            Some(name) => {
                let shown: String = name.chars().take(200).collect();
                Err(Problem::unknown_model(&shown, self.model_name()))
            }
        }
    }
}

/// The name of a model on the wire: without folders, which are nobody's business.
fn name_of(model: &ModelRef) -> String {
    match model {
        ModelRef::Path(path) => path
            .file_stem()
            .map_or_else(|| "model".to_owned(), |stem| stem.to_string_lossy().into_owned()),
        other => other.to_string(),
    }
}

/// Now, since 1970; 0 on a machine whose clock is before that.
pub(crate) fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Now, in seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    unix_time().as_secs()
}
