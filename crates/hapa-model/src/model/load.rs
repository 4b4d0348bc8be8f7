//! From a file to a running engine.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::info::ModelInfo;
use super::memory::{floats_bytes, is_folder, kv_token_bytes};
use super::options::{BackendChoice, LoadOptions};
use super::parts::Parts;
use super::{Inner, Model};
use crate::backend::Backend;
use crate::backend::cpu::CpuBackend;
use crate::backend::reference::{self, SafetensorsFolder};
use crate::engine::{Engine, EngineOptions, Speculate, Vocabulary};
use crate::error::{ModelError, Result};
use crate::gguf::{FileStamp, GgufFile};
use crate::store::{LoadEvent, ProgressSink, ResolvedModel};

impl Model {
    /// Loads a model that was resolved to a file on this machine.
    ///
    /// Maps the file, checks it, builds tokenizer and weights side by side, and starts the engine. Blocks for as long as that
    /// takes; `progress` hears of the steps and may stop it between them.
    ///
    /// # Errors
    /// Those of the file's parts, [`ModelError::InvalidOption`], [`ModelError::LoadAbandoned`].
    pub fn load(
        resolved: &ResolvedModel,
        options: &LoadOptions,
        progress: &dyn ProgressSink,
    ) -> Result<Self> {
        let started = Instant::now();
        let loading = Loading {
            name: &resolved.name,
            path: &resolved.path,
            digest: &resolved.digest,
            stamp: resolved.stamp,
            options,
            progress,
        };
        let model = loading.run()?;
        progress.event(&LoadEvent::Ready { elapsed: started.elapsed() });
        Ok(model)
    }

    /// Loads a GGUF file or a folder of safetensors files by its path, without looking at its digest.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_file(
        path: &Path,
        options: &LoadOptions,
        progress: &dyn ProgressSink,
    ) -> Result<Self> {
        let started = Instant::now();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let loading = Loading { name: &stem, path, digest: "", stamp: None, options, progress };
        let model = loading.run()?;
        progress.event(&LoadEvent::Ready { elapsed: started.elapsed() });
        Ok(model)
    }
}

struct Loading<'a> {
    name: &'a str,
    path: &'a Path,
    digest: &'a str,
    stamp: Option<FileStamp>,
    options: &'a LoadOptions,
    progress: &'a dyn ProgressSink,
}

impl Loading<'_> {
    fn run(&self) -> Result<Model> {
        self.options.validate()?;
        self.progress.event(&LoadEvent::Mapping);
        self.check_cancelled()?;
        if is_folder(self.path) { self.safetensors() } else { self.gguf() }
    }

    fn check_cancelled(&self) -> Result<()> {
        if self.progress.is_cancelled() {
            return Err(ModelError::LoadAbandoned);
        }
        Ok(())
    }

    fn gguf(&self) -> Result<Model> {
        let file = GgufFile::open(self.path)?;
        if self.stamp.is_some_and(|stamp| file.stamp() != Some(stamp)) {
            return Err(ModelError::FileChanged { path: self.path.to_owned() });
        }
        self.check_cancelled()?;
        let loaded = side_by_side(|| Parts::from_gguf(&file), || self.backend(&file));
        // First, as a file that somebody writes into may well have looked damaged.
        file.ensure_unchanged()?;
        let (parts, backend) = loaded?;
        self.check_cancelled()?;
        let info = ModelInfo {
            name: self.name.to_owned(),
            path: self.path.to_owned(),
            digest: self.digest.to_owned(),
            architecture: backend.config().architecture.clone(),
            parameters: file.tensors().iter().map(|tensor| tensor.elements() as u64).sum(),
            quantisation: tensor_types(&file),
            context_length: backend.config().context_length,
            chat_template: parts.template.is_some(),
            fim: parts.fim.is_some(),
            file_bytes: file.file_bytes().len() as u64,
            memory_bytes: self
                .options
                .memory_bytes(backend.config(), file.file_bytes().len() as u64),
            backend: backend.name(),
            kv_precision: (backend.name() == "cpu").then_some(self.options.kv_precision),
            forward_cost: backend.forward_cost(),
        };
        self.start(info, parts, backend)
    }

    fn safetensors(&self) -> Result<Model> {
        if self.options.backend == BackendChoice::Cpu {
            return Err(ModelError::Unsupported {
                what: "a safetensors model on the cpu backend".into(),
                help: "use the reference backend, or a GGUF file of the model".into(),
            });
        }
        let folder = SafetensorsFolder::open(self.path)?;
        self.check_cancelled()?;
        let (parts, backend) = side_by_side(
            || Parts::from_folder(folder.path()),
            || {
                Ok(Arc::new(reference::ReferenceBackend::from_safetensors(&folder)?)
                    as Arc<dyn Backend>)
            },
        )?;
        self.check_cancelled()?;
        let info = ModelInfo {
            name: self.name.to_owned(),
            path: self.path.to_owned(),
            digest: self.digest.to_owned(),
            architecture: backend.config().architecture.clone(),
            parameters: folder.parameters(),
            quantisation: folder.types(),
            context_length: backend.config().context_length,
            chat_template: parts.template.is_some(),
            fim: parts.fim.is_some(),
            file_bytes: folder.file_bytes(),
            memory_bytes: self.options.memory_bytes(backend.config(), floats_bytes(&folder)),
            backend: backend.name(),
            kv_precision: (backend.name() == "cpu").then_some(self.options.kv_precision),
            forward_cost: backend.forward_cost(),
        };
        self.start(info, parts, backend)
    }

    fn backend(&self, file: &Arc<GgufFile>) -> Result<Arc<dyn Backend>> {
        match self.options.backend {
            BackendChoice::Cpu => self.cpu(file),
            BackendChoice::Reference => reference::load_gguf(file),
            BackendChoice::Auto => match self.cpu(file) {
                Err(
                    why @ (ModelError::UnsupportedArchitecture { .. }
                    | ModelError::Unsupported { .. }),
                ) => {
                    let backend = reference::load_gguf(file)?;
                    tracing::warn!(%why, "the slower reference backend is used");
                    Ok(backend)
                }
                loaded => loaded,
            },
        }
    }

    fn cpu(&self, file: &Arc<GgufFile>) -> Result<Arc<dyn Backend>> {
        let digest = self.packing_key(file);
        let backend = CpuBackend::load((file, &digest), self.options.threads, self.progress)?;
        Ok(Arc::new(backend))
    }

    /// What tells this file from any other that may have its path later: the digest, or without one its stamp.
    fn packing_key(&self, file: &GgufFile) -> String {
        match self.digest {
            "" => format!("{:?}", file.stamp()),
            digest => digest.to_owned(),
        }
    }

    fn start(&self, info: ModelInfo, parts: Parts, backend: Arc<dyn Backend>) -> Result<Model> {
        let config = backend.config();
        let token_bytes = kv_token_bytes(config, info.kv_precision);
        let options = EngineOptions {
            context_tokens: self.options.context(config, token_bytes)?,
            max_sequences: self.options.max_sequences,
            kv_budget_bytes: self.options.kv_budget(),
            threads: self.options.threads,
            kv_precision: self.options.kv_precision,
            queue_limit: self.options.queue_limit,
            prefill_chunk_tokens: self.options.prefill_chunk_tokens,
            stream_events: self.options.stream_events,
            speculate: match self.options.speculation {
                true => Speculate::Adaptively,
                false => Speculate::Never,
            },
        };
        let vocabulary = Arc::clone(&parts.tokenizer) as Arc<dyn Vocabulary>;
        let engine = Engine::start(backend, vocabulary, options)?;
        Ok(Model { inner: Arc::new(Inner { engine, info, parts, grammars: OnceLock::new() }) })
    }
}

/// Tensor types of a file and how many tensors have each, most frequent first.
fn tensor_types(file: &GgufFile) -> Vec<(String, usize)> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for tensor in file.tensors() {
        *counts.entry(tensor.ty.name()).or_default() += 1;
    }
    let mut counts: Vec<_> =
        counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts
}

/// Runs both at once; the first error wins.
fn side_by_side<A: Send, B>(
    first: impl FnOnce() -> Result<A> + Send,
    second: impl FnOnce() -> Result<B>,
) -> Result<(A, B)> {
    std::thread::scope(|scope| {
        let first = scope.spawn(first);
        let second = second();
        let first = first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((first?, second?))
    })
}
