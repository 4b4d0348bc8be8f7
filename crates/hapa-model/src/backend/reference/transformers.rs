//! Architectures that only candle-transformers knows: phi2, phi3, gemma3 and glm4.
//!
//! Its models own their KV cache and take one sequence at a time. An open sequence is therefore a clone of
//! the whole model: weights are reference-counted, so a clone costs its cache and a few pointers, but the sequences of a batch
//! run one after the other, and nothing is gained by batching. What the models cannot do is made up for here:
//! - Some build a wrong mask for a second chunk of a prompt, so tokens wait until logits are wanted, and
//!   the first run takes all of them at once. Long prompts of these models hold up other sequences.
//! - They give logits of the last token only: where all are wanted, tokens run singly.
//! - They cannot forget tokens: [`Executor::truncate`] starts the sequence anew.
//! - They widen the embedding table to f32.

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::Arc;

use candle_core::quantized::gguf_file::Content;
use candle_core::{DType, Device, Tensor};
use candle_transformers::models::{
    quantized_gemma3, quantized_glm4, quantized_phi, quantized_phi3,
};

use crate::backend::{
    Backend, Chunk, Executor, ExecutorOptions, KvUsage, LogitsFor, Opened, SequenceId, StepOutcome,
};
use crate::config::{ModelConfig, Rope, RopePairing};
use crate::error::{ModelError, Result};
use crate::gguf::GgufFile;

/// What both this crate's graph and candle-transformers run.
const SUPPORTED: &str = "llama, qwen2, qwen3, phi2, phi3, gemma3, glm4";

/// A model of candle-transformers with an empty cache.
pub(super) struct TransformersBackend {
    config: ModelConfig,
    pristine: Arc<Model>,
}

#[derive(Clone)]
enum Model {
    Phi2(quantized_phi::ModelWeights),
    Phi3(quantized_phi3::ModelWeights),
    Gemma3(quantized_gemma3::ModelWeights),
    Glm4(quantized_glm4::ModelWeights),
}

impl Model {
    /// Logits of the last token, `[1, vocab_size]`.
    fn forward(&mut self, tokens: &Tensor, position: usize) -> candle_core::Result<Tensor> {
        match self {
            Self::Phi2(model) => model.forward(tokens, position),
            Self::Phi3(model) => model.forward(tokens, position),
            Self::Gemma3(model) => model.forward(tokens, position),
            Self::Glm4(model) => model.forward(tokens, position),
        }
    }
}

impl TransformersBackend {
    pub(super) fn from_gguf(file: &Arc<GgufFile>, architecture: &str) -> Result<Self> {
        let device = Device::Cpu;
        let mut reader = Cursor::new(file.file_bytes());
        // The file has passed our own checks by now, so candle's reader is safe to run on it.
        let content = Content::read(&mut reader)?;
        let load: fn(Content, &mut Cursor<&[u8]>, &Device) -> candle_core::Result<Model> =
            match architecture {
                "phi2" => {
                    |c, r, d| quantized_phi::ModelWeights::from_gguf(c, r, d).map(Model::Phi2)
                }
                "phi3" => |c, r, d| {
                    quantized_phi3::ModelWeights::from_gguf(false, c, r, d).map(Model::Phi3)
                },
                "gemma3" => {
                    |c, r, d| quantized_gemma3::ModelWeights::from_gguf(c, r, d).map(Model::Gemma3)
                }
                "glm4" => |c, r, d| {
                    quantized_glm4::ModelWeights::from_gguf(c, r, d, DType::F32).map(Model::Glm4)
                },
                other => {
                    return Err(ModelError::UnsupportedArchitecture {
                        architecture: other.to_owned(),
                        supported: SUPPORTED.into(),
                    });
                }
            };
        let config = shape(file, architecture)?;
        // These readers index and divide by what the metadata says; a panic there is an unusable file, not a crash.
        let loaded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            load(content, &mut reader, &device)
        }));
        let model = loaded.unwrap_or_else(|_| {
            candle_core::bail!("the metadata of this {architecture} file is not usable")
        })?;
        Ok(Self { config, pristine: Arc::new(model) })
    }
}

/// The figures that the engine needs; the model reads its own.
fn shape(file: &GgufFile, architecture: &str) -> Result<ModelConfig> {
    let metadata = file.metadata();
    let size = |name: &str| -> Result<usize> {
        let value = metadata.u64(&format!("{architecture}.{name}"))?;
        usize::try_from(value)
            .ok()
            .filter(|value| (1..1 << 24).contains(value))
            .ok_or_else(|| file.invalid(name, format!("is {value}, expected 1 to {}", 1 << 24)))
    };
    let heads = size("attention.head_count")?;
    let hidden_size = size("embedding_length")?;
    let mut context_length = size("context_length")?;
    if architecture == "gemma3" {
        // candle's gemma3 does not apply the sliding window to single tokens: within the window there is none to apply.
        context_length = context_length.min(size("attention.sliding_window")?);
    }
    let embedding = file.require_tensor("token_embd.weight")?;
    Ok(ModelConfig {
        architecture: architecture.to_owned(),
        vocab_size: embedding.shape[0],
        hidden_size,
        intermediate_size: size("feed_forward_length")?,
        layers: size("block_count")?,
        heads,
        kv_heads: size("attention.head_count_kv").unwrap_or(heads),
        head_dim: size("attention.key_length").unwrap_or(hidden_size / heads),
        rms_norm_eps: 1e-6,
        rope: Rope {
            theta: 10_000.0,
            dims: hidden_size / heads,
            pairing: RopePairing::Halves,
            frequency_factors: None,
            scale: 1.0,
        },
        context_length,
        qkv_bias: false,
        qk_norm: false,
        tied_embeddings: file.tensor("output.weight").is_none(),
    })
}

impl Backend for TransformersBackend {
    fn name(&self) -> &'static str {
        "candle-transformers"
    }

    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn executor(&self, options: &ExecutorOptions) -> Result<Box<dyn Executor>> {
        Ok(Box::new(TransformersExecutor {
            pristine: Arc::clone(&self.pristine),
            options: options.clone(),
            sequences: HashMap::new(),
            next_id: 0,
        }))
    }
}

struct TransformersExecutor {
    pristine: Arc<Model>,
    options: ExecutorOptions,
    sequences: HashMap<SequenceId, Entry>,
    next_id: u64,
}

struct Entry {
    model: Model,
    tokens: Vec<u32>,
    /// Leading tokens that the model has in its cache.
    computed: usize,
}

impl Entry {
    /// Runs the next tokens up to `end`; the logits of the last of them.
    fn run(&mut self, end: usize) -> candle_core::Result<Tensor> {
        let mut last = None;
        while self.computed < end {
            // All at once from the start, singly after that.
            let until = if self.computed == 0 { end } else { self.computed + 1 };
            let input =
                Tensor::new(&self.tokens[self.computed..until], &Device::Cpu)?.unsqueeze(0)?;
            last = Some(self.model.forward(&input, self.computed)?);
            self.computed = until;
        }
        match last {
            Some(logits) => logits.flatten_all()?.to_dtype(DType::F32),
            None => candle_core::bail!("no token to run"),
        }
    }
}

impl Executor for TransformersExecutor {
    fn open(&mut self, _prompt: &[u32], _namespace: u64) -> Result<Opened> {
        if self.sequences.len() >= self.options.max_sequences {
            return Err(ModelError::Engine {
                problem: format!("{} sequences are open already", self.sequences.len()),
            });
        }
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        let entry = Entry { model: (*self.pristine).clone(), tokens: Vec::new(), computed: 0 };
        self.sequences.insert(id, entry);
        Ok(Opened { id, cached_tokens: 0 })
    }

    fn step(&mut self, chunks: &[Chunk<'_>], logits: &mut Vec<f32>) -> Result<StepOutcome> {
        logits.clear();
        for chunk in chunks {
            let len = self.sequences.get(&chunk.sequence).map(|entry| entry.tokens.len());
            let fits =
                len.is_some_and(|len| len + chunk.tokens.len() <= self.options.context_tokens);
            if !fits || chunk.tokens.is_empty() {
                return Err(ModelError::Engine {
                    problem: format!(
                        "{} more tokens do not fit sequence {:?}",
                        chunk.tokens.len(),
                        chunk.sequence
                    ),
                });
            }
        }
        for chunk in chunks {
            let Some(entry) = self.sequences.get_mut(&chunk.sequence) else { continue };
            let before = entry.tokens.len();
            entry.tokens.extend_from_slice(chunk.tokens);
            let end = entry.tokens.len();
            let wanted = match chunk.logits {
                LogitsFor::Nothing => continue,
                LogitsFor::Last => end..=end,
                LogitsFor::All => before + 1..=end,
            };
            for until in wanted {
                logits.extend(entry.run(until)?.to_vec1::<f32>()?);
            }
        }
        Ok(StepOutcome::Done)
    }

    fn len(&self, sequence: SequenceId) -> usize {
        self.sequences.get(&sequence).map_or(0, |entry| entry.tokens.len())
    }

    fn truncate(&mut self, sequence: SequenceId, tokens: usize) {
        if let Some(entry) = self.sequences.get_mut(&sequence)
            && tokens < entry.tokens.len()
        {
            entry.tokens.truncate(tokens);
            if entry.computed > tokens {
                entry.model = (*self.pristine).clone();
                entry.computed = 0;
            }
        }
    }

    fn close(&mut self, sequence: SequenceId) {
        self.sequences.remove(&sequence);
    }

    fn kv_usage(&self) -> KvUsage {
        KvUsage::default()
    }
}
