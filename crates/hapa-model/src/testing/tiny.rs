//! Tiny random models of the supported architectures.

use std::path::Path;

use hapa_kernels::GgmlType;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::random;
use super::vocabulary::TinyVocabulary;
use super::writer::{GgufWriter, WriterValue};
use crate::error::{ModelError, Result};

const TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] \
     + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Architecture {
    Llama,
    Qwen2,
    Qwen3,
}

/// Builds a tiny random model: two layers, grouped-query attention (four query heads, two for keys and
/// values), a real tokenizer. The same settings and seed give the same bytes.
#[derive(Debug, Clone)]
pub struct TinyModel {
    architecture: Architecture,
    hidden_size: usize,
    intermediate_size: usize,
    layers: usize,
    head_dim: usize,
    context_length: usize,
    weights: GgmlType,
    overrides: Vec<(String, GgmlType)>,
    tied: bool,
    frequency_factors: bool,
    fim: bool,
    template: Option<String>,
    seed: u64,
}

impl TinyModel {
    const HEADS: usize = 4;
    const KV_HEADS: usize = 2;

    fn new(architecture: Architecture) -> Self {
        Self {
            architecture,
            hidden_size: 128,
            intermediate_size: 256,
            layers: 2,
            head_dim: 32,
            context_length: 512,
            weights: GgmlType::F32,
            overrides: Vec::new(),
            tied: true,
            frequency_factors: false,
            fim: true,
            template: Some(TEMPLATE.to_owned()),
            seed: 1,
        }
    }

    /// A llama: adjacent rotary pairs.
    pub fn llama() -> Self {
        Self::new(Architecture::Llama)
    }

    /// A qwen2: biases on q, k and v.
    pub fn qwen2() -> Self {
        Self::new(Architecture::Qwen2)
    }

    /// A qwen3: q and k normalised by head.
    pub fn qwen3() -> Self {
        Self::new(Architecture::Qwen3)
    }

    /// The type of all matrices (default F32). K-quants widen the model so that rows are whole blocks.
    pub fn weights(mut self, ty: GgmlType) -> Self {
        self.weights = ty;
        self.fit(ty);
        self
    }

    /// The type of the matrices whose name contains `part`, over the general one; the last match wins.
    pub fn weights_of(mut self, part: &str, ty: GgmlType) -> Self {
        self.overrides.push((part.to_owned(), ty));
        self.fit(ty);
        self
    }

    fn fit(&mut self, ty: GgmlType) {
        if ty.block_elements() > self.hidden_size {
            self.hidden_size = 256;
            self.head_dim = 64;
            self.intermediate_size = 512;
        }
    }

    /// Number of transformer blocks (default 2).
    pub fn layers(mut self, layers: usize) -> Self {
        self.layers = layers;
        self
    }

    /// The context that the file claims, in tokens (default 512).
    pub fn context_length(mut self, tokens: usize) -> Self {
        self.context_length = tokens;
        self
    }

    /// Gives the model an output matrix of its own instead of the embedding table.
    pub fn untied(mut self) -> Self {
        self.tied = false;
        self
    }

    /// Adds `rope_freqs.weight`, as llama 3.1 and later have.
    pub fn frequency_factors(mut self) -> Self {
        self.frequency_factors = true;
        self
    }

    /// Leaves the fill-in-the-middle tokens out.
    pub fn without_fim(mut self) -> Self {
        self.fim = false;
        self
    }

    /// The chat template's source (default ChatML); `None` leaves it out.
    pub fn template(mut self, source: Option<&str>) -> Self {
        self.template = source.map(str::to_owned);
        self
    }

    /// The seed of the weights (default 1).
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The vocabulary that the file will have.
    pub fn vocabulary(&self) -> TinyVocabulary {
        TinyVocabulary::new(self.fim)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`ModelError::Io`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        std::fs::write(path, self.to_bytes()).map_err(|source| ModelError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        })
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.writer().to_bytes()
    }

    /// The file before it is laid out, so that a test can add to it.
    pub fn writer(&self) -> GgufWriter {
        let vocabulary = self.vocabulary();
        let mut out = GgufWriter::new();
        self.write_metadata(&mut out, &vocabulary);
        let mut tensors =
            Tensors { model: self, rng: ChaCha8Rng::seed_from_u64(self.seed), out: &mut out };
        tensors.write_all(vocabulary.len());
        out
    }

    fn name(&self) -> &'static str {
        match self.architecture {
            Architecture::Llama => "llama",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
        }
    }

    fn write_metadata(&self, out: &mut GgufWriter, vocabulary: &TinyVocabulary) {
        let name = self.name();
        let mut size = |key: &str, value: usize| {
            out.pair(format!("{name}.{key}"), WriterValue::U32(value as u32));
        };
        size("block_count", self.layers);
        size("context_length", self.context_length);
        size("embedding_length", self.hidden_size);
        size("feed_forward_length", self.intermediate_size);
        size("attention.head_count", Self::HEADS);
        size("attention.head_count_kv", Self::KV_HEADS);
        match self.architecture {
            Architecture::Llama => size("rope.dimension_count", self.head_dim),
            Architecture::Qwen2 => {}
            Architecture::Qwen3 => {
                size("attention.key_length", self.head_dim);
                size("attention.value_length", self.head_dim);
            }
        }
        out.pair("general.architecture", WriterValue::String(name.into()))
            .pair("general.name", WriterValue::String(format!("tiny {name}")))
            .pair(format!("{name}.attention.layer_norm_rms_epsilon"), WriterValue::F32(1e-6))
            .pair(format!("{name}.rope.freq_base"), WriterValue::F32(10_000.0));
        let pre = match self.architecture {
            Architecture::Llama => "smollm",
            Architecture::Qwen2 | Architecture::Qwen3 => "qwen2",
        };
        vocabulary.write(out, pre);
        if let Some(template) = &self.template {
            out.pair("tokenizer.chat_template", WriterValue::String(template.clone()));
        }
    }
}

/// Writes the tensors one after the other from one random stream.
struct Tensors<'a> {
    model: &'a TinyModel,
    rng: ChaCha8Rng,
    out: &'a mut GgufWriter,
}

impl Tensors<'_> {
    fn matrix(&mut self, name: &str, rows: usize, columns: usize) {
        let overridden =
            self.model.overrides.iter().rev().find(|(part, _)| name.contains(part.as_str()));
        let ty = overridden.map_or(self.model.weights, |&(_, ty)| ty);
        // Rows of this spread keep the size of what passes through them.
        let spread = (columns as f32).sqrt().recip();
        let data = random::weights(&mut self.rng, ty, rows * columns, spread);
        self.out.tensor(name, ty, &[rows, columns], data);
    }

    fn norm(&mut self, name: &str, len: usize) {
        let data = random::norm(&mut self.rng, len);
        self.out.tensor(name, GgmlType::F32, &[len], data);
    }

    fn bias(&mut self, name: &str, len: usize) {
        let data = random::weights(&mut self.rng, GgmlType::F32, len, 0.1);
        self.out.tensor(name, GgmlType::F32, &[len], data);
    }

    fn write_all(&mut self, vocab_size: usize) {
        let model = self.model;
        let hidden = model.hidden_size;
        let q = TinyModel::HEADS * model.head_dim;
        let kv = TinyModel::KV_HEADS * model.head_dim;
        self.matrix("token_embd.weight", vocab_size, hidden);
        if !model.tied {
            self.matrix("output.weight", vocab_size, hidden);
        }
        self.norm("output_norm.weight", hidden);
        if model.frequency_factors {
            let factors = (0..model.head_dim / 2)
                .flat_map(|i| (1.0 + i as f32 * 0.5).to_le_bytes())
                .collect();
            self.out.tensor("rope_freqs.weight", GgmlType::F32, &[model.head_dim / 2], factors);
        }
        for layer in 0..model.layers {
            let name = |part: &str| format!("blk.{layer}.{part}");
            self.norm(&name("attn_norm.weight"), hidden);
            self.matrix(&name("attn_q.weight"), q, hidden);
            self.matrix(&name("attn_k.weight"), kv, hidden);
            self.matrix(&name("attn_v.weight"), kv, hidden);
            self.matrix(&name("attn_output.weight"), hidden, q);
            match model.architecture {
                Architecture::Llama => {}
                Architecture::Qwen2 => {
                    self.bias(&name("attn_q.bias"), q);
                    self.bias(&name("attn_k.bias"), kv);
                    self.bias(&name("attn_v.bias"), kv);
                }
                Architecture::Qwen3 => {
                    self.norm(&name("attn_q_norm.weight"), model.head_dim);
                    self.norm(&name("attn_k_norm.weight"), model.head_dim);
                }
            }
            self.norm(&name("ffn_norm.weight"), hidden);
            self.matrix(&name("ffn_gate.weight"), model.intermediate_size, hidden);
            self.matrix(&name("ffn_up.weight"), model.intermediate_size, hidden);
            self.matrix(&name("ffn_down.weight"), hidden, model.intermediate_size);
        }
    }
}
