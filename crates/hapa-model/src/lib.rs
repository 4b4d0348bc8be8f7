//! Local code models: from a name to streamed text.
pub mod backend;
pub mod catalog;
mod config;
mod engine;
mod error;
pub mod eval;
pub mod gguf;
mod grammar;
pub mod lazy;
mod model;
pub mod prompt;
pub mod sampling;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod text;
pub mod tokenizer;

pub use backend::{ForwardCost, Kernel, KernelSpan, KvPrecision};
pub use catalog::{CatalogModel, DEFAULT_MODEL};
pub use config::{ModelConfig, Rope, RopePairing};
pub use engine::{
    Answer, EngineStats, Finish, FinishReason, GenerateEvent, GenerateRequest, Generation,
    PrefillChunk, Priority, TextDelta, Timings, TokenLogprobs, TracedStep, Usage,
};
pub use error::{ModelError, Result, SharedError};
pub use grammar::{Grammar, GrammarCompiler};
pub use lazy::{
    KeepAlive, Lazy, LazyModel, LazyOptions, Lease, LoadState, Loader, ModelLease, ModelPool, Pool,
    PoolOptions, PoolStats, Unload, Unloads,
};
pub use model::{BackendChoice, LoadOptions, Model, ModelInfo};
pub use prompt::{
    ChatMessage, ChatTemplate, FillInMiddle, FimFile, FimRequest, FimRoom, Role, ToolCall,
    ToolCallStream, ToolDefinition, ToolEvent,
};
pub use sampling::{Sampler, SamplingOptions, TokenLogprob};
pub use store::{
    HubFile, LoadEvent, ModelRef, NoProgress, Origin, ProgressSink, ResolvedModel, Route, Store,
    StoreOptions,
};
pub use text::{TextStep, TextStream};
pub use tokenizer::{EncodeOptions, Tokenizer};
