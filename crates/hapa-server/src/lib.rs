//! The HTTP API of HAPA.
//!
//! ```no_run
//! use hapa_server::{Server, ServerOptions};
//! use hapa_service::{Service, ServiceOptions};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let service = Service::new(ServiceOptions::new("qwen2.5-coder-0.5b".parse()?))?;
//! let server = Server::new(ServerOptions::default(), service)?.bind().await?;
//! println!("listening on {}", server.local_addr());
//! server.serve(async { let _ = tokio::signal::ctrl_c().await; }).await;
//! # Ok(())
//! # }
//! ```
//!
//! | route | what |
//! | --- | --- |
//! | `POST /api/v1/code/generate` | a question answered with code; `stream: true` gives events |
//! | `POST /api/v1/code/generate/batch` | several, each with its own status |
//! | `POST /api/v1/code/complete` | the text at a cursor |
//! | `POST /api/v1/validation/validate` | Python syntax |
//! | `POST /v1/chat/completions`, `POST /v1/completions`, `GET /v1/models` | OpenAI's API |
//! | `POST /v1/messages`, `POST /v1/messages/count_tokens` | Anthropic's API |
//! | `POST /infill`, `/completion`, `/tokenize`, `/detokenize`, `GET /props`, `/slots` | llama-server's API for editors |
//! | `GET /api/v1/traces` | the last requests: status, times, stages |
//! | `GET /api/v1/traces/{request_id}` | the timeline of a request, for Perfetto |
//! | `GET /debug/profile?seconds=N` | where processor time goes: flame graph, hot functions and lines |
//! | `GET /debug/heap?seconds=N` | which lines hold and allocate memory: flame graph, table |
//! | `GET /health`, `/ready`, `/stats`, `/metrics` | operations |
//! | `GET /` | the web page: playground, dashboard, recent requests |
//!
//! Where a [`KeyFile`] is configured and holds keys, every route but `/health`, `/ready`, `/docs`, `/openapi.json` and the page at
//! `/` demands one, and the server may listen beyond loopback. Every response carries `x-request-id` and `server-timing`, every answer
//! `x-hapa-cache`. Errors have OpenAI's shape under `/v1`, Anthropic's under `/v1/messages`, and HAPA's elsewhere. The wire's shapes
//! are in [`wire`]; [`hapa_service`] knows none of them.

mod alerts;
mod auth;
mod body;
mod charge;
mod collect;
mod compress;
mod conn;
mod cors;
mod deadline;
mod edge;
mod error;
mod life;
mod limits;
mod load_pace;
mod options;
mod otlp;
mod problem;
mod query;
mod receipt;
mod recent;
mod request_id;
mod routes;
mod server;
mod sse;
mod stamp;
mod state;
mod tls;
mod web;
pub mod wire;

pub use alerts::{AlertOptions, Webhook};
pub use auth::{ApiKey, KeyFile, KeyFileError, KeyRecord, NewKey, Rate, Scope};
pub use error::ServerError;
pub use options::ServerOptions;
pub use otlp::OtlpOptions;
pub use server::{BoundServer, Control, Server};
pub use tls::TlsFiles;
