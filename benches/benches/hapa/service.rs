//! The whole pipeline around a tiny random model, whose arithmetic is next to nothing: what a cache hit takes, and what
//! the pipeline itself adds to a generation.

use criterion::Criterion;
use hapa_model::testing::TinyModel;
use hapa_service::{FinishReason, ModelRef, Request, Service, ServiceError, ServiceOptions};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::fixtures::{need, slow};

struct Pipeline {
    runtime: Runtime,
    service: Service,
    /// A request whose answer may be kept.
    request: Request,
    _folder: TempDir,
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("service");
    group.bench_function("cache_hit", |bencher| {
        let pipeline = Pipeline::new();
        let first = need("predict", pipeline.predict(pipeline.request.clone()));
        let second = need("predict", pipeline.predict(pipeline.request.clone()));
        if !second.cache.outcome.is_hit() {
            let finish = first.finish;
            need::<(), _>("cache", Err(format!("an answer that ended by {finish:?} was not kept")));
        }
        bencher.iter(|| need("predict", pipeline.predict(pipeline.request.clone())));
    });
    slow(&mut group);
    group.bench_function("generate_without_cache", |bencher| {
        let pipeline = Pipeline::new();
        let mut request = pipeline.request.clone();
        request.cache.no_cache = true;
        request.cache.no_store = true;
        bencher.iter(|| need("predict", pipeline.predict(request.clone())));
    });
    group.finish();
}

impl Pipeline {
    fn new() -> Self {
        let folder = need("a temporary folder", tempfile::tempdir());
        let path = folder.path().join("tiny.gguf");
        need("a tiny model", TinyModel::qwen2().write(&path));
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build();
        let mut options = ServiceOptions::new(ModelRef::Path(path));
        options.lazy.load.threads = 1;
        let mut pipeline = Self {
            runtime: need("runtime", runtime),
            service: need("service", Service::new(options)),
            request: Request::raw("def f(x):"),
            _folder: folder,
        };
        pipeline.end_by_itself();
        pipeline
    }

    fn predict(&self, request: Request) -> Result<hapa_service::Answer, ServiceError> {
        self.runtime.block_on(self.service.predict(request))
    }

    /// Gives the request a stop string that its answer is known to contain: only whole answers are kept.
    fn end_by_itself(&mut self) {
        self.request.max_tokens = 24;
        let long = need("predict", self.predict(self.request.clone()));
        if long.finish == FinishReason::Length {
            let letters: Vec<char> = long.text.chars().collect();
            self.request.stop = vec![letters[letters.len() / 2..].iter().take(3).collect()];
        }
    }
}
