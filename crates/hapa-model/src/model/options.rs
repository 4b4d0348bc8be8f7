//! How a model is loaded.

use std::fmt;
use std::str::FromStr;

use crate::backend::KvPrecision;
use crate::config::ModelConfig;
use crate::error::{ModelError, Result};

/// Which arithmetic runs a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BackendChoice {
    /// The cpu backend when it supports the file, else the reference backend.
    #[default]
    Auto,
    /// This project's own kernels.
    Cpu,
    /// candle.
    Reference,
}

impl fmt::Display for BackendChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Reference => "reference",
        })
    }
}

impl FromStr for BackendChoice {
    type Err = ModelError;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "reference" => Ok(Self::Reference),
            other => Err(ModelError::InvalidOption {
                option: "backend",
                value: other.to_owned(),
                expected: "auto, cpu or reference",
            }),
        }
    }
}

/// Limits and choices of a loaded model.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadOptions {
    /// Which arithmetic runs it (default auto).
    pub backend: BackendChoice,
    /// Compute threads; 0 (the default) means one per physical core.
    pub threads: usize,
    /// Longest sequence, prompt and answer together. Default: what the model was trained for, or what the KV budget holds.
    pub context_tokens: Option<usize>,
    /// Most sequences that are computed at once (default 32).
    pub max_sequences: usize,
    /// Most bytes of KV cache, used as sequences come. Default: an eighth of the machine's memory, from 128 MiB to 1 GiB.
    pub kv_budget_bytes: Option<usize>,
    /// How exactly the cpu backend keeps keys and values (default halves). Bytes hold twice the tokens in the same budget.
    pub kv_precision: KvPrecision,
    /// Most requests that wait; the next one is refused at once (default 128).
    pub queue_limit: usize,
    /// Most prompt tokens in one step (default 256). Sequences that decode wait for one such chunk at most, so less means
    /// steadier streams, more means faster prompts.
    pub prefill_chunk_tokens: usize,
    /// Events that the channel of an answer holds before its request pauses (default 64).
    pub stream_events: usize,
    /// Draft tokens from earlier text (the prompt, the answer so far, recent answers of the same namespace) and verify several
    /// in one step (default true). Answers are the same with and without; it is off by itself while it does not pay, and on
    /// backends whose rounding depends on the batch.
    pub speculation: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            backend: BackendChoice::default(),
            threads: 0,
            context_tokens: None,
            max_sequences: 32,
            kv_budget_bytes: None,
            kv_precision: KvPrecision::default(),
            queue_limit: 128,
            prefill_chunk_tokens: 256,
            stream_events: 64,
            speculation: true,
        }
    }
}

const MIB: u64 = 1 << 20;

impl LoadOptions {
    /// Refuses values that cannot work.
    pub(super) fn validate(&self) -> Result<()> {
        let check = |option, value: usize, max: usize, expected| {
            if (1..=max).contains(&value) {
                return Ok(());
            }
            Err(ModelError::InvalidOption { option, value: value.to_string(), expected })
        };
        check("max_sequences", self.max_sequences, 1024, "1 to 1024")?;
        check("prefill_chunk_tokens", self.prefill_chunk_tokens, 1 << 16, "1 to 65536")?;
        check("stream_events", self.stream_events, 1 << 16, "1 to 65536")?;
        check("threads", self.threads + 1, 1025, "0 (one per core) to 1024")?;
        check("queue_limit", self.queue_limit + 1, (1 << 20) + 1, "0 to 1048576")
    }

    /// Bytes of KV cache.
    pub(super) fn kv_budget(&self) -> usize {
        self.kv_budget_bytes.unwrap_or_else(|| {
            let budget = (machine_memory_bytes() / 8).clamp(128 * MIB, 1024 * MIB);
            usize::try_from(budget).unwrap_or(usize::MAX)
        })
    }

    /// The context, given bytes of KV cache for one token.
    pub(super) fn context(&self, config: &ModelConfig, token_bytes: usize) -> Result<usize> {
        let trained = config.context_length;
        match self.context_tokens {
            Some(tokens) if (2..=trained).contains(&tokens) => Ok(tokens),
            Some(tokens) => Err(ModelError::InvalidOption {
                option: "context_tokens",
                value: format!("{tokens} (the model was trained for {trained})"),
                expected: "2 up to what the model was trained for",
            }),
            None => Ok((self.kv_budget() / token_bytes.max(1)).clamp(2, trained.max(2))),
        }
    }
}

/// Memory that this process may use: of the machine, or of its control group when that is less.
fn machine_memory_bytes() -> u64 {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let machine = system.total_memory();
    match system.cgroup_limits() {
        Some(limits) if limits.total_memory > 0 => machine.min(limits.total_memory),
        _ => machine,
    }
}
