//! The pipeline of HAPA: from a request to an answer with its receipt.
//!
//! ```text
//! Request -> limits -> key -> cache -> flight (identical requests share one) -> a place among those who wait
//!    -> model (lazily loaded) -> prompt -> engine -> text -> post-processing -> cache -> Answer
//! ```
//!
//! The crate knows nothing of HTTP. [`Service`] is the whole of it for most users:
//!
//! ```no_run
//! use hapa_service::{Request, Service, ServiceOptions};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let service = Service::new(ServiceOptions::new("qwen2.5-coder-0.5b".parse()?))?;
//! let answer = service.predict(Request::generate("merge two sorted lists")).await?;
//! println!("{}", answer.code.unwrap_or(answer.text));
//! # Ok(())
//! # }
//! ```
//!
//! - Nothing is loaded before the first request ([`hapa_model::LazyModel`]).
//! - One service answers with several models ([`Service::for_model`]), within a budget of memory ([`ServiceOptions::memory_budget`]).
//! - Identical deterministic requests share one generation, streaming ones too; it runs on a task of its own and ends
//!   when the last caller has left.
//! - Whole answers to deterministic requests are kept; truncated, cancelled and failed ones never. Tiers below memory (disk,
//!   Redis) keep them beyond the process.
//! - A completion that was offered answers the requests that come while the user types it.
//! - A completion ends with the block that the cursor is in ([`BlockGuard`]), and repeats nothing of what follows the cursor
//!   ([`SuffixGuard`]). Of the requests for one document the newest counts ([`Request::document_id`]).
//! - Work is let in by places, counted in requests and tokens ([`AdmissionOptions`]); what is over the limit, or would come after
//!   its [`Request::deadline`], is refused before any work.
//! - What is streamed, joined, is [`Answer::text`]: post-processing that removes text does so while streaming.

mod admission;
mod answer;
mod aside;
mod candidates;
mod cutoff;
mod documents;
mod error;
mod generate;
mod inner;
mod kept;
mod key;
mod limits;
mod observe;
mod options;
mod post;
mod prompt;
mod request;
mod served;
mod service;
mod stream;
mod timeline;
mod underway;

pub use admission::{AdmissionOptions, AdmissionStats};
pub use answer::{
    Answer, AnswerEvent, CacheOutcome, CacheReport, LikelyToken, Timings, TokenScore,
};
pub use error::{ErrorKind, ServiceError};
pub use limits::Limits;
pub use observe::RequestCounts;
pub use options::ServiceOptions;
pub use post::{
    BlockGuard, CodeStream, Extracted, Severity, SuffixGuard, SyntaxIssue, SyntaxReport, extract,
    validate_python,
};
pub use request::{
    DEFAULT_CHAT_TOKENS, DEFAULT_COMPLETION_TOKENS, DEFAULT_MAX_TOKENS, MAX_CANDIDATES,
    MAX_LOGPROBS, OutputFormat, PromptPiece, Request, Task,
};
pub use served::stage;
pub use service::{ModelStats, Service, ServiceStats};
pub use stream::AnswerStream;

// What appears in this crate's own types.
pub use hapa_cache::{
    CacheControl, CacheError, DiskOptions, DiskTier, FlightStats, MemoryOptions, MemoryStats,
    QueueStats, SnapshotReader, SnapshotWriter, Tier, TierStats, TypedOptions, TypedStats,
};
#[cfg(feature = "redis")]
pub use hapa_cache::{RedisOptions, RedisTier};
pub use hapa_model::{
    ChatMessage, EncodeOptions, EngineStats, FinishReason, LazyModel, LazyOptions, LoadEvent,
    LoadState, ModelInfo, ModelLease, ModelRef, PoolStats, Role, SamplingOptions, ToolCall,
    ToolCallStream, ToolDefinition, ToolEvent, Unloads, Usage,
};
