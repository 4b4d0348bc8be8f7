//! Inputs of the benchmarks: real models, Python text, conversations.

use std::cell::OnceCell;
use std::fmt::Display;
use std::sync::Arc;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, SamplingMode};
use hapa_model::backend::Backend;
use hapa_model::backend::cpu::CpuBackend;
use hapa_model::gguf::GgufFile;
use hapa_model::testing::{PERPLEXITY_TEXT, real_model, real_store};
use hapa_model::{
    EncodeOptions, ModelRef, NoProgress, ResolvedModel, Store, StoreOptions, Tokenizer,
};

/// The small model that every run measures, fetched when it is missing.
const SMALL: &str = "smollm2-135m";
/// The default model, measured when it is on this machine already: nobody's benchmark should begin with half a gigabyte.
const DEFAULT: &str = "qwen2.5-coder-0.5b";

/// The value, or the end of the program with the reason: a benchmark without its input measures nothing.
pub(crate) fn need<T, E: Display>(what: &str, result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| {
        eprintln!("bench: {what}: {error}");
        std::process::exit(1)
    })
}

/// Settings for benchmarks whose iterations take from milliseconds to seconds.
pub(crate) fn slow(group: &mut BenchmarkGroup<'_, WallTime>) {
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
}

/// A real model; each part is made when it is first asked for.
pub(crate) struct BenchModel {
    pub(crate) id: &'static str,
    resolved: OnceCell<ResolvedModel>,
    file: OnceCell<Arc<GgufFile>>,
    tokenizer: OnceCell<Tokenizer>,
    backend: OnceCell<CpuBackend>,
}

pub(crate) fn models() -> Vec<BenchModel> {
    let mut models = vec![BenchModel::small()];
    if stores().iter().any(|store| has(store, DEFAULT)) {
        models.push(BenchModel::new(DEFAULT));
    } else {
        eprintln!("bench: {DEFAULT} is left out: it is not here (`hapa model pull {DEFAULT}`)");
    }
    models
}

/// The user's own store, then the one that the tests share.
fn stores() -> Vec<Store> {
    let own = Store::open(StoreOptions { offline: true, ..StoreOptions::default() });
    own.into_iter().chain(real_store()).collect()
}

fn has(store: &Store, id: &str) -> bool {
    store.list().iter().any(|model| model.name == id)
}

impl BenchModel {
    /// The one that every run measures.
    pub(crate) fn small() -> Self {
        Self::new(SMALL)
    }

    fn new(id: &'static str) -> Self {
        Self {
            id,
            resolved: OnceCell::new(),
            file: OnceCell::new(),
            tokenizer: OnceCell::new(),
            backend: OnceCell::new(),
        }
    }

    pub(crate) fn resolved(&self) -> &ResolvedModel {
        self.resolved.get_or_init(|| {
            let found = match stores().into_iter().find(|store| has(store, self.id)) {
                Some(store) => {
                    self.id.parse::<ModelRef>().and_then(|model| store.resolve(&model, &NoProgress))
                }
                None => {
                    eprintln!("bench: fetching {}", self.id);
                    real_model(self.id)
                }
            };
            need(self.id, found)
        })
    }

    pub(crate) fn file(&self) -> &Arc<GgufFile> {
        self.file.get_or_init(|| need(self.id, GgufFile::open(&self.resolved().path)))
    }

    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        self.tokenizer.get_or_init(|| need(self.id, Tokenizer::from_gguf(self.file())))
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        self.backend.get_or_init(|| {
            let model = (self.file(), self.resolved().digest.as_str());
            need(self.id, CpuBackend::load(model, 0, &NoProgress))
        })
    }

    /// The first `count` tokens of Python text.
    pub(crate) fn tokens(&self, count: usize) -> Vec<u32> {
        let options = EncodeOptions { add_bos: true, parse_special: false };
        // Text of four times as many bytes gives fewer tokens than that; eight are always enough.
        let text = python(8 * count);
        let mut tokens = need(self.id, self.tokenizer().encode(text, options));
        tokens.truncate(count);
        tokens
    }
}

/// At most `bytes` bytes of Python.
pub(crate) fn python(bytes: usize) -> &'static str {
    let end = PERPLEXITY_TEXT.floor_char_boundary(bytes);
    &PERPLEXITY_TEXT[..end]
}
