//! Settings in layers: built-in defaults < a file < `HAPA_*` variables < flags. See `docs/configuration.md`.

mod alerts;
mod layers;
mod sources;
mod values;

use hapa_model::{BackendChoice, DEFAULT_MODEL, KvPrecision};
use hapa_server::OtlpOptions;
use hapa_service::DEFAULT_MAX_TOKENS;
use serde::{Deserialize, Serialize};

pub(crate) use alerts::AlertSettings;
pub(crate) use layers::{Flags, Layers};
pub(crate) use sources::{Given, gather};
pub(crate) use values::{Auto, ByteSize, Names, Period};

/// Everything that can be set. `docs/configuration.md` says what each is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) model: String,
    pub(crate) models: Names,
    pub(crate) home: String,
    pub(crate) offline: bool,
    pub(crate) log: String,
    pub(crate) profile_spans: String,
    pub(crate) engine: EngineSettings,
    pub(crate) generate: GenerateSettings,
    pub(crate) cache: CacheSettings,
    pub(crate) server: ServerSettings,
    pub(crate) alerts: AlertSettings,
    pub(crate) otlp: OtlpSettings,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct EngineSettings {
    #[serde(with = "values::text")]
    pub(crate) backend: BackendChoice,
    pub(crate) threads: usize,
    pub(crate) context_tokens: usize,
    pub(crate) max_sequences: usize,
    pub(crate) queue_limit: usize,
    pub(crate) queue_tokens: usize,
    #[serde(with = "values::text")]
    pub(crate) first_token_limit: Period,
    #[serde(with = "values::text")]
    pub(crate) kv_memory: Auto<ByteSize>,
    #[serde(with = "values::text")]
    pub(crate) kv_precision: KvPrecision,
    #[serde(with = "values::text")]
    pub(crate) memory_budget: ByteSize,
    pub(crate) speculation: bool,
    pub(crate) completion_window: usize,
    #[serde(with = "values::text")]
    pub(crate) keep_alive: Period,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct GenerateSettings {
    pub(crate) max_tokens: usize,
    pub(crate) temperature: f32,
    pub(crate) top_p: f32,
    pub(crate) top_k: usize,
    pub(crate) min_p: f32,
    pub(crate) repetition_penalty: f32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CacheSettings {
    pub(crate) enabled: bool,
    #[serde(with = "values::text")]
    pub(crate) memory: ByteSize,
    #[serde(with = "values::text")]
    pub(crate) ttl: Period,
    #[serde(with = "values::text")]
    pub(crate) disk: ByteSize,
    pub(crate) disk_file: String,
    pub(crate) redis: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ServerSettings {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) preload: bool,
    #[serde(with = "values::text")]
    pub(crate) body_limit: ByteSize,
    pub(crate) max_connections: usize,
    #[serde(with = "values::text")]
    pub(crate) header_timeout: Period,
    #[serde(with = "values::text")]
    pub(crate) body_timeout: Period,
    #[serde(with = "values::text")]
    pub(crate) write_timeout: Period,
    #[serde(with = "values::text")]
    pub(crate) grace: Period,
    #[serde(with = "values::text")]
    pub(crate) request_timeout: Period,
    pub(crate) allowed_hosts: String,
    pub(crate) cors_origins: String,
    pub(crate) tls_certificate: String,
    pub(crate) tls_key: String,
    pub(crate) key_file: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct OtlpSettings {
    pub(crate) endpoint: String,
    pub(crate) sample_ratio: f64,
}

impl Default for OtlpSettings {
    fn default() -> Self {
        let OtlpOptions { sample_ratio, .. } = OtlpOptions::default();
        Self { endpoint: String::new(), sample_ratio }
    }
}

impl OtlpSettings {
    /// The server's options.
    pub(crate) fn options(&self) -> OtlpOptions {
        let endpoint = Some(self.endpoint.trim()).filter(|endpoint| !endpoint.is_empty());
        OtlpOptions { endpoint: endpoint.map(str::to_owned), sample_ratio: self.sample_ratio }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: DEFAULT_MODEL.to_owned(),
            models: Names::default(),
            home: String::new(),
            offline: false,
            log: "warn".to_owned(),
            profile_spans: "engine=debug".to_owned(),
            engine: EngineSettings::default(),
            generate: GenerateSettings::default(),
            cache: CacheSettings::default(),
            server: ServerSettings::default(),
            alerts: AlertSettings::default(),
            otlp: OtlpSettings::default(),
        }
    }
}

impl Default for EngineSettings {
    fn default() -> Self {
        let load = hapa_model::LoadOptions::default();
        Self {
            backend: load.backend,
            threads: load.threads,
            context_tokens: 0,
            max_sequences: load.max_sequences,
            queue_limit: load.queue_limit,
            queue_tokens: hapa_service::AdmissionOptions::default().queue_tokens,
            first_token_limit: Period::NEVER,
            kv_memory: Auto(None),
            kv_precision: load.kv_precision,
            memory_budget: ByteSize(0),
            speculation: load.speculation,
            completion_window: hapa_service::Limits::default().completion_window,
            keep_alive: Period(hapa_model::KeepAlive::default()),
        }
    }
}

impl Default for GenerateSettings {
    fn default() -> Self {
        let sampling = hapa_model::SamplingOptions::default();
        Self {
            max_tokens: DEFAULT_MAX_TOKENS,
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
        }
    }
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            memory: ByteSize(64 << 20),
            ttl: Period::NEVER,
            disk: ByteSize(1 << 30),
            disk_file: String::new(),
            redis: String::new(),
        }
    }
}

impl Default for ServerSettings {
    fn default() -> Self {
        let server = hapa_server::ServerOptions::default();
        Self {
            host: server.address.ip().to_string(),
            port: server.address.port(),
            preload: false,
            body_limit: ByteSize(server.max_body_bytes as u64),
            max_connections: server.max_connections,
            header_timeout: Period::of(server.header_timeout),
            body_timeout: Period::of(server.body_timeout),
            write_timeout: Period::of(server.write_timeout),
            grace: Period::of(server.grace),
            request_timeout: Period::NEVER,
            allowed_hosts: String::new(),
            cors_origins: String::new(),
            tls_certificate: String::new(),
            tls_key: String::new(),
            key_file: String::new(),
        }
    }
}
