//! The arithmetic by the seam below the engine (decode, prefill), and the engine around it (generate).

use criterion::{Criterion, Throughput};
use hapa_model::backend::reference::load_gguf;
use hapa_model::backend::{
    Backend, Chunk, Executor, ExecutorOptions, KvPrecision, LogitsFor, SequenceId, StepOutcome,
};
use hapa_model::{GenerateRequest, LoadOptions, Model, NoProgress};

use crate::fixtures::{BenchModel, need, slow};

/// Tokens that a decoding sequence holds already.
const HELD: usize = 128;
const PROMPT: usize = 512;
/// The engine's own default.
const CHUNK: usize = 256;

pub(crate) fn bench(criterion: &mut Criterion, model: &BenchModel) {
    decode(criterion, model);
    prefill(criterion, model);
    generate(criterion, model);
}

fn executor(backend: &dyn Backend) -> Box<dyn Executor> {
    let options = ExecutorOptions {
        context_tokens: 2 * PROMPT,
        max_sequences: 16,
        kv_budget_bytes: 256 << 20,
        max_batch_tokens: PROMPT,
        threads: 0,
        kv_precision: KvPrecision::F16,
    };
    need("executor", backend.executor(&options))
}

fn step(executor: &mut dyn Executor, chunks: &[Chunk<'_>], logits: &mut Vec<f32>) {
    match need("step", executor.step(chunks, logits)) {
        StepOutcome::Done => {}
        StepOutcome::OutOfPages => need("step", Err("the KV cache is too small")),
    }
}

/// Opens a sequence and computes its prompt.
fn fill(
    executor: &mut dyn Executor,
    prompt: &[u32],
    namespace: u64,
    logits: &mut Vec<f32>,
) -> SequenceId {
    let opened = need("open", executor.open(prompt, namespace));
    let mut rest = &prompt[opened.cached_tokens..];
    while !rest.is_empty() {
        let (tokens, after) = rest.split_at(CHUNK.min(rest.len()));
        let wanted = if after.is_empty() { LogitsFor::Last } else { LogitsFor::Nothing };
        step(executor, &[Chunk { sequence: opened.id, tokens, logits: wanted }], logits);
        rest = after;
    }
    opened.id
}

fn decode(criterion: &mut Criterion, model: &BenchModel) {
    let mut group = criterion.benchmark_group("decode");
    slow(&mut group);
    for sequences in [1, 4, 16] {
        group.throughput(Throughput::Elements(sequences));
        group.bench_function(format!("{sequences}/{}", model.id), |bencher| {
            decode_steps(bencher, (model.backend(), &model.tokens(HELD)), sequences);
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("decode_reference");
    slow(&mut group);
    group.throughput(Throughput::Elements(1));
    group.bench_function(model.id, |bencher| {
        let backend = need(model.id, load_gguf(model.file()));
        decode_steps(bencher, (backend.as_ref(), &model.tokens(HELD)), 1);
    });
    group.finish();
}

/// Steps of one token for each of `sequences` sequences; the token is taken back, so that every step is the same work.
fn decode_steps(
    bencher: &mut criterion::Bencher<'_>,
    (backend, prompt): (&dyn Backend, &[u32]),
    sequences: u64,
) {
    let mut executor = executor(backend);
    let mut logits = Vec::new();
    let ids: Vec<SequenceId> = (0..sequences)
        .map(|namespace| fill(executor.as_mut(), prompt, namespace, &mut logits))
        .collect();
    let token = [prompt[prompt.len() / 2]];
    let chunks: Vec<Chunk<'_>> = ids
        .iter()
        .map(|&sequence| Chunk { sequence, tokens: &token, logits: LogitsFor::Last })
        .collect();
    bencher.iter(|| {
        step(executor.as_mut(), &chunks, &mut logits);
        for &id in &ids {
            executor.truncate(id, HELD);
        }
    });
}

fn prefill(criterion: &mut Criterion, model: &BenchModel) {
    let mut group = criterion.benchmark_group("prefill");
    slow(&mut group);
    group.throughput(Throughput::Elements(PROMPT as u64));
    group.bench_function(format!("{PROMPT}/{}", model.id), |bencher| {
        let mut executor = executor(model.backend());
        let (prompt, mut logits) = (model.tokens(PROMPT), Vec::new());
        // Prefixes are shared within a namespace; a new one each time shares nothing.
        let mut namespace = 0;
        bencher.iter(|| {
            namespace += 1;
            let id = fill(executor.as_mut(), &prompt, namespace, &mut logits);
            executor.close(id);
        });
    });
    group.bench_function(format!("{PROMPT}_cached/{}", model.id), |bencher| {
        let mut executor = executor(model.backend());
        let (prompt, mut logits) = (model.tokens(PROMPT), Vec::new());
        let id = fill(executor.as_mut(), &prompt, 0, &mut logits);
        executor.close(id);
        bencher.iter(|| {
            let id = fill(executor.as_mut(), &prompt, 0, &mut logits);
            executor.close(id);
        });
    });
    group.finish();
}

fn generate(criterion: &mut Criterion, model: &BenchModel) {
    const TOKENS: usize = 32;
    let mut group = criterion.benchmark_group("generate");
    slow(&mut group);
    group.throughput(Throughput::Elements(TOKENS as u64));
    group.bench_function(format!("{TOKENS}/{}", model.id), |bencher| {
        let loaded = Model::load(model.resolved(), &LoadOptions::default(), &NoProgress);
        let loaded = need(model.id, loaded);
        let prompt = model.tokens(HELD);
        let mut namespace = 0;
        bencher.iter(|| {
            namespace += 1;
            let mut request = GenerateRequest::new(prompt.clone(), TOKENS);
            request.namespace = namespace;
            need("generate", need("submit", loaded.generate(request)).blocking_collect())
        });
    });
    group.finish();
}
