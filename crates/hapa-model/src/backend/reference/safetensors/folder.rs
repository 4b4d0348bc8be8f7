//! The folder: which files it has, and where each tensor lies in them.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::config::read_config;
use crate::backend::reference::source::{StoredTensor, WeightSource};
use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::gguf::FileBytes;

/// Largest `config.json` or index that is read; real ones are a few kilobytes to a megabyte.
const MAX_JSON_BYTES: u64 = 64 << 20;

/// An opened and checked folder of safetensors files.
pub struct SafetensorsFolder {
    path: PathBuf,
    config: ModelConfig,
    files: Vec<FileBytes>,
    /// By Hugging Face's names.
    tensors: HashMap<String, Place>,
}

struct Place {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// `model.safetensors.index.json`: which file holds which tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

impl SafetensorsFolder {
    /// Maps the files of a folder and checks them. `path` is the folder, or a `.safetensors` file in it. The files must not be
    /// changed or truncated while they are open.
    ///
    /// # Errors
    /// [`ModelError::Io`] when a file cannot be opened, [`ModelError::UnsupportedArchitecture`], and
    /// [`ModelError::InvalidSafetensors`] for everything else.
    pub fn open(path: &Path) -> Result<Self> {
        let (folder, names) = if path.is_dir() {
            (path.to_owned(), weight_files(path)?)
        } else {
            let name = path.file_name().unwrap_or_default().to_owned();
            (path.parent().unwrap_or(Path::new("")).to_owned(), vec![PathBuf::from(name)])
        };
        let config_path = folder.join("config.json");
        let config = read_config(&config_path, &read_json(&config_path)?)?;
        let mut opened = Self { path: folder, config, files: Vec::new(), tensors: HashMap::new() };
        for name in names {
            opened.add(&name)?;
        }
        opened.config.tied_embeddings |= !opened.tensors.contains_key("lm_head.weight");
        Ok(opened)
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Weights in all tensors.
    pub fn parameters(&self) -> u64 {
        self.tensors.values().map(|t| t.shape.iter().product::<usize>() as u64).sum()
    }

    /// Bytes of all files.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.len() as u64).sum()
    }

    /// Number of tensors of each type.
    pub fn types(&self) -> Vec<(String, usize)> {
        let mut counts: HashMap<String, usize> = HashMap::new();
        for tensor in self.tensors.values() {
            *counts.entry(format!("{:?}", tensor.dtype)).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        counts
    }

    fn add(&mut self, name: &Path) -> Result<()> {
        let path = self.path.join(name);
        let file = File::open(&path).map_err(|source| ModelError::Io {
            action: "open",
            path: path.clone(),
            source,
        })?;
        let bytes = FileBytes::map(&file).map_err(|source| ModelError::Io {
            action: "map",
            path: path.clone(),
            source,
        })?;
        let (header_bytes, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|error| invalid(&path, error.to_string()))?;
        // Eight bytes of length, the header, the data; `read_metadata` checked that all of it lies in the file.
        let data = header_bytes + 8;
        for (name, info) in metadata.tensors() {
            let place = Place {
                file: self.files.len(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                bytes: data + info.data_offsets.0..data + info.data_offsets.1,
            };
            if place.bytes.end > bytes.len() {
                return Err(invalid(
                    &path,
                    format!("tensor `{name}` reaches past the end of the file"),
                ));
            }
            if self.tensors.insert(name.clone(), place).is_some() {
                return Err(invalid(
                    &path,
                    format!("tensor `{name}` is in two files, expected one"),
                ));
            }
        }
        self.files.push(bytes);
        Ok(())
    }
}

/// The weight files of a folder: by the index when there is one, else all `*.safetensors`.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let index = folder.join("model.safetensors.index.json");
    if index.exists() {
        let text = read_json(&index)?;
        let parsed: Index =
            serde_json::from_str(&text).map_err(|error| invalid(&index, error.to_string()))?;
        let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
        // Only plain names: an index must not reach out of its folder.
        if let Some(name) =
            names.iter().find(|name| name.contains(['/', '\\']) || name.starts_with(".."))
        {
            return Err(invalid(
                &index,
                format!("names the file `{name}`, expected a file of this folder"),
            ));
        }
        return Ok(names.into_iter().map(PathBuf::from).collect());
    }
    let entries = std::fs::read_dir(folder).map_err(|source| ModelError::Io {
        action: "list",
        path: folder.to_owned(),
        source,
    })?;
    let mut names: Vec<PathBuf> = entries
        .filter_map(|entry| Some(PathBuf::from(entry.ok()?.file_name())))
        .filter(|name| name.extension().is_some_and(|ext| ext == "safetensors"))
        .collect();
    names.sort();
    if names.is_empty() {
        return Err(invalid(folder, "has no *.safetensors file".into()));
    }
    Ok(names)
}

/// Reads a small JSON file.
fn read_json(path: &Path) -> Result<String> {
    let io = |action| move |source| ModelError::Io { action, path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(io("open"))?.len();
    if bytes > MAX_JSON_BYTES {
        return Err(invalid(path, format!("has {bytes} bytes, expected at most {MAX_JSON_BYTES}")));
    }
    std::fs::read_to_string(path).map_err(io("read"))
}

fn invalid(path: &Path, problem: String) -> ModelError {
    ModelError::InvalidSafetensors { path: path.to_owned(), problem }
}

impl WeightSource for SafetensorsFolder {
    fn tensor(&self, name: &str) -> Result<Option<StoredTensor<'_>>> {
        let Some(place) = self.tensors.get(&hugging_face_name(name)) else {
            return Ok(None);
        };
        let dtype = match place.dtype {
            Dtype::F32 => GgmlDType::F32,
            Dtype::F16 => GgmlDType::F16,
            Dtype::BF16 => GgmlDType::BF16,
            other => {
                return Err(
                    self.invalid(name, format!("is of type {other:?}, expected F32, F16 or BF16"))
                );
            }
        };
        let elements = place.shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
        if elements.and_then(|n| n.checked_mul(dtype.type_size())) != Some(place.bytes.len()) {
            let problem = format!(
                "has {} bytes, which is not what shape {:?} takes",
                place.bytes.len(),
                place.shape
            );
            return Err(self.invalid(name, problem));
        }
        Ok(Some(StoredTensor {
            dtype,
            shape: place.shape.clone(),
            bytes: &self.files[place.file][place.bytes.clone()],
        }))
    }

    fn invalid(&self, name: &str, problem: String) -> ModelError {
        invalid(&self.path, format!("tensor `{}` {problem}", hugging_face_name(name)))
    }
}

/// Hugging Face's name for a tensor of a llama, qwen2 or qwen3.
fn hugging_face_name(gguf: &str) -> String {
    match gguf {
        "token_embd.weight" => return "model.embed_tokens.weight".into(),
        "output.weight" => return "lm_head.weight".into(),
        "output_norm.weight" => return "model.norm.weight".into(),
        _ => {}
    }
    let parts: Vec<&str> = gguf.split('.').collect();
    let [_, layer, part, kind] = parts[..] else {
        return gguf.to_owned();
    };
    let part = match part {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        other => other,
    };
    format!("model.layers.{layer}.{part}.{kind}")
}
