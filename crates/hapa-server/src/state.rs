//! What handlers share.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hapa_metrics::Exporter;
use hapa_profiler::ResponseTimeLogger;
use hapa_service::Service;
use tokio::sync::watch;

use crate::auth::Keyring;
use crate::life::Life;
use crate::load_pace::LoadPace;
use crate::options::ServerOptions;
use crate::otlp::Tracing;
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
    exporter: Exporter,
    ids: RequestIds,
    response_times: ResponseTimeLogger,
    recent: RecentRequests,
    started: Instant,
    started_unix: u64,
    models: Vec<WireModel>,
    parts: StateParts,
}

/// A model that requests may name.
#[derive(Clone)]
pub(crate) struct WireModel {
    /// Its name on the wire.
    pub(crate) name: Arc<str>,
    /// The service, asking it.
    pub(crate) service: Service,
    /// How fast it is being loaded.
    pub(crate) pace: Arc<LoadPace>,
}

/// What only some servers have.
#[derive(Default)]
pub(crate) struct StateParts {
    /// The keys, where a file of them is configured.
    pub(crate) keyring: Option<Arc<Keyring>>,
    /// Spans of requests, where they are exported.
    pub(crate) tracing: Option<Tracing>,
}

impl AppState {
    pub(crate) fn new(
        options: ServerOptions,
        service: Service,
        exporter: Exporter,
        parts: StateParts,
    ) -> Self {
        Self(Arc::new(Shared {
            models: wire_models(&options, &service),
            parts,
            service,
            options: watch::Sender::new(Arc::new(options)),
            life: Life::default(),
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

    pub(crate) fn exporter(&self) -> &Exporter {
        &self.0.exporter
    }

    /// The keys, where a file of them is configured.
    pub(crate) fn keyring(&self) -> Option<&Arc<Keyring>> {
        self.0.parts.keyring.as_ref()
    }

    pub(crate) fn tracing(&self) -> Option<&Tracing> {
        self.0.parts.tracing.as_ref()
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

    /// The models that requests may name, the default one first.
    pub(crate) fn models(&self) -> &[WireModel] {
        &self.0.models
    }

    /// The model that a request names; none means the default one.
    pub(crate) fn model(&self, asked: Option<&str>) -> Result<&WireModel, Problem> {
        let models = self.models();
        let asked = asked.unwrap_or_default();
        let named = models.iter().find(|model| *model.name == *asked);
        let default = || models.first().filter(|_| matches!(asked, "" | "hapa" | "default"));
        named.or_else(default).ok_or_else(|| {
            let shown: String = asked.chars().take(200).collect();
            Problem::unknown_model(&shown, models.iter().map(|model| &*model.name))
        })
    }

    /// The name of the default model on the wire.
    pub(crate) fn model_name(&self) -> &str {
        self.models().first().map_or("", |model| &model.name)
    }
}

/// The models of a service under the names that requests have for them, the default one first.
fn wire_models(options: &ServerOptions, service: &Service) -> Vec<WireModel> {
    let wire =
        |service: Service| WireModel { name: service.name().into(), service, pace: Arc::default() };
    let mut models: Vec<_> = service.models().map(wire).collect();
    if let (Some(first), Some(name)) = (models.first_mut(), &options.model_name) {
        first.name = name.as_str().into();
    }
    models
}

/// Now, since 1970; 0 on a machine whose clock is before that.
pub(crate) fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Now, in seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    unix_time().as_secs()
}
