//! From a file to a running engine.
//!
//! *Cold* means that no packed file is there: the weights are read from the GGUF file, brought into the kernels' layout, and
//! written beside it. The GGUF file itself is in the page cache, since no unprivileged and safe call empties that;
//! a load right after the machine's start reads it from the disk on top. *Warm* means that the packed file is there.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::Criterion;
use hapa_model::gguf::GgufFile;
use hapa_model::{
    LazyModel, LazyOptions, LoadOptions, Model, ModelRef, NoProgress, ResolvedModel, Tokenizer,
};
use tempfile::TempDir;

use crate::fixtures::{BenchModel, need, slow};

pub(crate) fn bench(criterion: &mut Criterion, model: &BenchModel) {
    let mut group = criterion.benchmark_group("load");
    group.bench_function(format!("lazy_handle/{}", model.id), |bencher| {
        let reference: ModelRef = need(model.id, model.id.parse());
        bencher.iter(|| LazyModel::new(reference.clone(), LazyOptions::default()));
    });
    // What each request pays for a model that may be unloaded: of an idle one, and of one that others use too.
    for (name, is_shared) in [("lease_idle", false), ("lease_in_use", true)] {
        group.bench_function(format!("{name}/{}", model.id), |bencher| {
            let path = model.resolved().path.clone();
            let lazy = LazyModel::new(ModelRef::Path(path), LazyOptions::default());
            let first = need("load", lazy.blocking_get());
            let _other = is_shared.then_some(first);
            bencher.iter(|| need("lease", lazy.blocking_get()));
        });
    }
    group.bench_function(format!("gguf_check/{}", model.id), |bencher| {
        let path = &model.resolved().path;
        bencher.iter(|| need("open", GgufFile::open(path)));
    });
    slow(&mut group);
    group.bench_function(format!("tokenizer/{}", model.id), |bencher| {
        let file = model.file();
        bencher.iter(|| need("tokenizer", Tokenizer::from_gguf(file)));
    });
    group.bench_function(format!("warm/{}", model.id), |bencher| {
        let place = Place::new(model.resolved());
        drop(place.load());
        place.wait_for_packed_file();
        bencher.iter_with_large_drop(|| black_box(place.load()));
    });
    group.bench_function(format!("cold/{}", model.id), |bencher| {
        bencher.iter_custom(|iterations| {
            let mut total = Duration::ZERO;
            for _ in 0..iterations {
                let place = Place::new(model.resolved());
                let start = Instant::now();
                let loaded = place.load();
                total += start.elapsed();
                drop(loaded);
                // Its writing belongs to no other iteration.
                place.wait_for_packed_file();
            }
            total
        });
    });
    group.finish();
}

/// A folder with the model file alone: what lies beside the real one stays as it is.
struct Place {
    model: ResolvedModel,
    _folder: TempDir,
}

impl Place {
    fn new(model: &ResolvedModel) -> Self {
        let beside = model.path.parent().unwrap_or(Path::new("."));
        // The same disk, where a link costs nothing; a store that cannot be written to is copied from.
        let folder = tempfile::Builder::new()
            .prefix(".bench-")
            .tempdir_in(beside)
            .or_else(|_| tempfile::tempdir());
        let folder = need("a folder for the model", folder);
        let path = folder.path().join("model.gguf");
        let linked = std::fs::hard_link(&model.path, &path)
            .or_else(|_| std::fs::copy(&model.path, &path).map(drop));
        need("a link to the model", linked);
        Self { model: ResolvedModel { path, stamp: None, ..model.clone() }, _folder: folder }
    }

    fn load(&self) -> Model {
        need(&self.model.name, Model::load(&self.model, &LoadOptions::default(), &NoProgress))
    }

    fn packed(&self) -> PathBuf {
        let mut name = self.model.path.clone().into_os_string();
        name.push(".packed");
        name.into()
    }

    /// The packed file gets its name on a thread of its own, after the load.
    fn wait_for_packed_file(&self) {
        let start = Instant::now();
        while !self.packed().exists() {
            if start.elapsed() > Duration::from_secs(60) {
                need::<(), _>("load", Err("no packed file was written within a minute"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
