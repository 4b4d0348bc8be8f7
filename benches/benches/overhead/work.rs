//! The work that is measured with and without profiling: a step of decoding, and an answer through the whole pipeline.

use criterion::{Criterion, Throughput};
use hapa_model::backend::{
    Chunk, ExecutorOptions, KvPrecision, LogitsFor, SequenceId, StepOutcome,
};
use hapa_service::{ModelRef, Request, Service, ServiceOptions};

use crate::fixtures::{BenchModel, need};

/// Tokens that the decoding sequence holds already.
const HELD: usize = 128;
/// Tokens of an answer.
const ANSWER: usize = 64;

pub(crate) fn bench(criterion: &mut Criterion, how: &str, request_id: Option<&str>) {
    let model = BenchModel::small();
    decode(criterion, how, &model);
    generate(criterion, how, (&model, request_id));
}

fn decode(criterion: &mut Criterion, how: &str, model: &BenchModel) {
    let mut group = criterion.benchmark_group("overhead/decode");
    group.throughput(Throughput::Elements(1));
    group.bench_function(how, |bencher| {
        let options = ExecutorOptions {
            context_tokens: 1024,
            max_sequences: 1,
            kv_budget_bytes: 64 << 20,
            max_batch_tokens: 512,
            threads: 0,
            kv_precision: KvPrecision::F16,
        };
        let mut executor = need("executor", model.backend().executor(&options));
        let prompt = model.tokens(HELD);
        let mut logits = Vec::new();
        let SequenceId(id) = need("open", executor.open(&prompt, 0)).id;
        let mut step = |tokens: &[u32]| {
            let chunk = Chunk { sequence: SequenceId(id), tokens, logits: LogitsFor::Last };
            let outcome = need("step", executor.step(&[chunk], &mut logits));
            let fits = if outcome == StepOutcome::Done { Ok(()) } else { Err("it is too small") };
            need("the KV cache", fits);
            executor.truncate(SequenceId(id), HELD);
        };
        step(&prompt);
        bencher.iter(|| step(&prompt[HELD / 2..=HELD / 2]));
    });
    group.finish();
}

fn generate(
    criterion: &mut Criterion,
    how: &str,
    (model, request_id): (&BenchModel, Option<&str>),
) {
    let mut group = criterion.benchmark_group("overhead/generate");
    group.throughput(Throughput::Elements(ANSWER as u64));
    group.bench_function(how, |bencher| {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = need("runtime", runtime.worker_threads(1).enable_all().build());
        let mut options = ServiceOptions::new(ModelRef::Path(model.resolved().path.clone()));
        // Drafts out of earlier answers would make the later ones faster.
        options.lazy.load.speculation = false;
        options.cache = None;
        let service = need("service", Service::new(options));
        let mut request = Request::raw("def merge(left, right):\n");
        request.max_tokens = ANSWER;
        request.request_id = request_id.map(str::to_owned);
        let answer = || {
            let answer = need("predict", runtime.block_on(service.predict(request.clone())));
            let whole =
                if answer.usage.generated_tokens == ANSWER { Ok(()) } else { Err("ended early") };
            need("the answer", whole);
        };
        answer();
        bencher.iter(answer);
    });
    group.finish();
}
