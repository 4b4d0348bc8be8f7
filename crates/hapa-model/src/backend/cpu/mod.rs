//! The fast backend: the llama family of graphs over [`hapa_kernels`].
//!
//! - `packed`: weights in the kernels' layout, made once and mapped from then on;
//! - `weights`: which tensor plays which part;
//! - `kv`: which page of the KV cache holds which tokens, and prefixes shared between sequences;
//! - `forward`: the graph;
//! - `executor`: a step over a batch of sequences.

mod executor;
mod forward;
mod kv;
mod packed;
#[cfg(test)]
mod tests;
mod weights;

use std::sync::Arc;

use hapa_kernels::{
    Isa, Kernels, KvKind, KvPool, KvShape, RopeOptions, RopePairs, RopeTable, Team, physical_cores,
};

use self::executor::{CpuExecutor, Limits, Rows};
use self::forward::Workspace;
use self::kv::KvCache;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub use self::kv::{KvOperations, operations as kv_operations};
pub use self::packed::packed_path;
use self::weights::Weights;
use crate::backend::{Backend, Executor, ExecutorOptions, ForwardCost, KvPrecision};
use crate::config::{ModelConfig, Rope, RopePairing};
use crate::error::{ModelError, Result};
use crate::gguf::GgufFile;
use crate::store::ProgressSink;

/// Tokens of a KV page: two groups of the sixteen that attention reads at once. A sequence wastes half a page on
/// average; a prefix that ends within a page is shared by copying that page.
const PAGE_TOKENS: usize = 32;

/// Weights of a llama-like model, packed for the CPU.
#[derive(Debug)]
pub struct CpuBackend {
    config: Arc<ModelConfig>,
    weights: Arc<Weights>,
    isa: Isa,
}

impl CpuBackend {
    /// Loads a checked GGUF file whose SHA-256 is `digest`. Packs the weights on `threads` threads (0: one a physical
    /// core) unless the packed file is there already.
    ///
    /// # Errors
    /// [`ModelError::UnsupportedArchitecture`] and [`ModelError::Unsupported`] for files that need another backend;
    /// [`ModelError::LoadAbandoned`] when `progress` was cancelled.
    pub fn load(
        (gguf, digest): (&Arc<GgufFile>, &str),
        threads: usize,
        progress: &dyn ProgressSink,
    ) -> Result<Self> {
        // A wish that cannot be met is no reason for another backend.
        let isa = Isa::from_env().map_err(|error| ModelError::InvalidOption {
            option: "HAPA_ISA",
            value: std::env::var("HAPA_ISA").unwrap_or_default() + &format!(" ({error})"),
            expected: "an instruction set that this machine has, which `hapa doctor` lists, or nothing for the best one",
        })?;
        let config = Arc::new(ModelConfig::from_gguf(gguf)?);
        let mut team = Team::new(threads_or_cores(threads));
        let weights = Arc::new(Weights::load((gguf, digest), &config, &mut team, progress)?);
        Ok(Self { config, weights, isa })
    }
}

fn threads_or_cores(threads: usize) -> usize {
    if threads == 0 { physical_cores() } else { threads }
}

fn rope_table(rope: &Rope) -> RopeTable {
    let pairs = match rope.pairing {
        RopePairing::Adjacent => RopePairs::Adjacent,
        RopePairing::Halves => RopePairs::Halves,
    };
    let options = RopeOptions {
        dims: rope.dims,
        theta: rope.theta,
        pairs,
        frequency_factors: rope.frequency_factors.clone(),
        position_scale: rope.scale,
    };
    RopeTable::new(options, 0)
}

impl Backend for CpuBackend {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn forward_cost(&self) -> Option<ForwardCost> {
        Some(self.weights.forward_cost())
    }

    fn executor(&self, options: &ExecutorOptions) -> Result<Box<dyn Executor>> {
        let fault = |e: hapa_kernels::KernelError| ModelError::Engine { problem: e.to_string() };
        let config = &self.config;
        let mut shape = KvShape {
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            page_tokens: PAGE_TOKENS,
            pages: 1,
            kind: match options.kv_precision {
                KvPrecision::F16 => KvKind::F16,
                KvPrecision::Q8 => KvKind::Q8,
            },
        };
        let useful =
            options.max_sequences.saturating_mul(options.context_tokens.div_ceil(PAGE_TOKENS) + 1);
        shape.pages = (options.kv_budget_bytes / shape.page_bytes())
            .clamp(1, useful.clamp(1, u32::MAX as usize));
        let team = Team::new(threads_or_cores(options.threads));
        let kernels = Kernels::new(team, self.isa).map_err(fault)?;
        Ok(Box::new(CpuExecutor {
            config: config.clone(),
            weights: self.weights.clone(),
            limits: Limits {
                context_tokens: options.context_tokens,
                max_sequences: options.max_sequences,
            },
            kv: KvCache::new(shape.pages as u32, PAGE_TOKENS),
            pool: KvPool::new(shape).map_err(fault)?,
            workspace: Workspace::new(kernels, rope_table(&config.rope), &self.weights),
            rows: Rows::default(),
        }))
    }
}
