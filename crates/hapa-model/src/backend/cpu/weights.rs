//! The tensors of a llama-like model, by the part they play.

use hapa_kernels::{GgmlType, PackedKind, PackedView, Team, dequantize_row};

use super::packed::{PackRequest, PackedWeights, can_pack};
use crate::backend::ForwardCost;
use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::gguf::GgufFile;
use crate::store::ProgressSink;

/// A packed matrix, by its place in the packed store.
pub(super) type Matrix = usize;

/// The tensors of one transformer block.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) attention_norm: Vec<f32>,
    pub(super) qkv: [Matrix; 3],
    /// Biases of q, k and v after each other; qwen2 has them.
    pub(super) qkv_bias: Option<Vec<f32>>,
    /// Norms of each head of q and k; qwen3 has them.
    pub(super) qk_norm: Option<(Vec<f32>, Vec<f32>)>,
    pub(super) attention_output: Matrix,
    pub(super) ffn_norm: Vec<f32>,
    pub(super) gate_up: [Matrix; 2],
    pub(super) down: Matrix,
}

/// Weights of one model, immutable.
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) layers: Vec<Layer>,
    pub(super) output_norm: Vec<f32>,
    pub(super) output: Matrix,
    embedding: Embedding,
    packed: PackedWeights,
}

/// Where the rows of the embedding are read. Never in the model file: who owns it may write into it while the model is
/// loaded.
#[derive(Debug)]
enum Embedding {
    /// Out of the packed output matrix, which is the same tensor and holds it exactly.
    Output,
    /// In the packed store's table, whose rows have this type.
    Table(GgmlType),
}

/// Names of the tensors as they are asked for, so that what is read and what is checked never differ.
struct Names {
    matrices: Vec<String>,
    vectors: Vec<String>,
}

impl Names {
    fn matrix(&mut self, name: String) -> Matrix {
        self.matrices.push(name);
        self.matrices.len() - 1
    }

    fn vector(&mut self, gguf: &GgufFile, name: String) -> Result<Vec<f32>> {
        let tensor = gguf.require_tensor(&name)?;
        let mut values = vec![0.0; tensor.elements()];
        let read = dequantize_row(tensor.ty, gguf.tensor_bytes(tensor), &mut values);
        read.map_err(|e| ModelError::Engine { problem: format!("tensor `{name}`: {e}") })?;
        self.vectors.push(name);
        Ok(values)
    }
}

impl Weights {
    /// Reads the vectors and maps (or makes) the packed matrices.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] when the file has a tensor that this graph does not know or the kernels cannot
    /// pack; [`ModelError::LoadAbandoned`] when cancelled.
    pub(super) fn load(
        (gguf, digest): (&GgufFile, &str),
        config: &ModelConfig,
        team: &mut Team,
        progress: &dyn ProgressSink,
    ) -> Result<Self> {
        let mut names = Names { matrices: Vec::new(), vectors: Vec::new() };
        let mut layers = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            layers.push(read_layer(gguf, config, layer, &mut names)?);
        }
        let output_norm = names.vector(gguf, "output_norm.weight".into())?;
        const EMBEDDING: &str = "token_embd.weight";
        let output = if config.tied_embeddings { EMBEDDING } else { "output.weight" };
        let output = names.matrix(output.into());
        check(gguf, &names)?;
        let ty = gguf.require_tensor(EMBEDDING)?.ty;
        let exact = PackedKind::for_ggml(ty).is_some_and(|kind| kind.is_exact_for(ty));
        let (embedding, table) = match config.tied_embeddings && exact {
            true => (Embedding::Output, None),
            false => (Embedding::Table(ty), Some(EMBEDDING)),
        };
        let request = PackRequest { gguf, digest, names: &names.matrices, table };
        let packed = PackedWeights::open(&request, team, progress)?;
        Ok(Self { layers, output_norm, output, embedding, packed })
    }

    pub(super) fn view(&self, matrix: Matrix) -> PackedView<'_> {
        self.packed.view(matrix)
    }

    /// Kinds of all packed matrices.
    pub(super) fn kinds(&self) -> impl Iterator<Item = hapa_kernels::PackedKind> {
        self.matrices().map(|matrix| self.packed.layout(matrix).kind())
    }

    fn matrices(&self) -> impl Iterator<Item = Matrix> {
        let all = self
            .layers
            .iter()
            .flat_map(|l| l.qkv.into_iter().chain(l.gate_up).chain([l.attention_output, l.down]));
        all.chain([self.output])
    }

    /// What a step reads and computes at least.
    pub(super) fn forward_cost(&self) -> ForwardCost {
        let (mut weight_bytes, mut token_macs) = (0, 0);
        let layout = |matrix| self.packed.layout(matrix);
        let macs = |matrix| (layout(matrix).rows() * layout(matrix).cols()) as u64;
        for matrix in self.matrices() {
            weight_bytes += layout(matrix).bytes() as u64;
            token_macs += macs(matrix);
        }
        let logits_macs = macs(self.output);
        ForwardCost { weight_bytes, token_macs: token_macs - logits_macs, logits_macs }
    }

    /// Writes the embedding of each token to its row of `out`, from the quantised weights.
    pub(super) fn embed(&self, tokens: &[u32], out: &mut [f32]) -> Result<()> {
        let width = out.len() / tokens.len().max(1);
        for (&token, out) in tokens.iter().zip(out.chunks_exact_mut(width.max(1))) {
            let row = token as usize;
            let read = match self.embedding {
                Embedding::Output => self.view(self.output).dequantize_row(row, out),
                Embedding::Table(ty) => {
                    let bytes = ty.row_bytes(out.len()).unwrap_or_default();
                    dequantize_row(ty, &self.packed.table()[row * bytes..][..bytes], out)
                }
            };
            read.map_err(|e| ModelError::Engine { problem: format!("embedding: {e}") })?;
        }
        Ok(())
    }
}

fn read_layer(
    gguf: &GgufFile,
    config: &ModelConfig,
    layer: usize,
    names: &mut Names,
) -> Result<Layer> {
    let name = |part: &str| format!("blk.{layer}.{part}");
    let qkv_bias = if config.qkv_bias {
        let mut bias = Vec::new();
        for part in ["attn_q.bias", "attn_k.bias", "attn_v.bias"] {
            bias.extend(names.vector(gguf, name(part))?);
        }
        Some(bias)
    } else {
        None
    };
    let qk_norm = if config.qk_norm {
        let q = names.vector(gguf, name("attn_q_norm.weight"))?;
        Some((q, names.vector(gguf, name("attn_k_norm.weight"))?))
    } else {
        None
    };
    Ok(Layer {
        attention_norm: names.vector(gguf, name("attn_norm.weight"))?,
        qkv: ["attn_q.weight", "attn_k.weight", "attn_v.weight"].map(|p| names.matrix(name(p))),
        qkv_bias,
        qk_norm,
        attention_output: names.matrix(name("attn_output.weight")),
        ffn_norm: names.vector(gguf, name("ffn_norm.weight"))?,
        gate_up: ["ffn_gate.weight", "ffn_up.weight"].map(|p| names.matrix(name(p))),
        down: names.matrix(name("ffn_down.weight")),
    })
}

/// Every matrix must be packable, and no tensor may be left over: a part of the graph would be missing.
fn check(gguf: &GgufFile, names: &Names) -> Result<()> {
    for name in &names.matrices {
        can_pack(gguf.require_tensor(name)?)?;
    }
    const READ_ELSEWHERE: [&str; 2] = ["token_embd.weight", "rope_freqs.weight"];
    let known: std::collections::HashSet<&str> =
        names.matrices.iter().chain(&names.vectors).map(String::as_str).collect();
    let stray = gguf.tensors().iter().map(|t| t.name.as_str());
    match stray.into_iter().find(|name| !known.contains(name) && !READ_ELSEWHERE.contains(name)) {
        Some(name) => Err(ModelError::Unsupported {
            what: format!("tensor `{name}` on the cpu backend"),
            help: "use the reference backend (`--backend reference`)".into(),
        }),
        None => Ok(()),
    }
}
