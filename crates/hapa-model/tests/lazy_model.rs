//! Lazy loading with the real small model.
//!
//! Every test gets the model from the store that all tests share; the first on a machine fetches it.

#![expect(clippy::expect_used, reason = "these are tests; their helpers may fail as they do")]

use std::time::{Duration, Instant};

use hapa_model::testing::{real_model, real_store};
use hapa_model::{
    BackendChoice, KeepAlive, LazyModel, LazyOptions, LoadEvent, LoadOptions, LoadState,
    ModelError, ModelRef, StoreOptions, Unload,
};

const SMALL: &str = "smollm2-135m";

fn options(keep_alive: KeepAlive) -> LazyOptions {
    real_model(SMALL).expect("the small model");
    let home = Some(real_store().expect("the store of the tests").home().to_owned());
    // The reference backend writes nothing beside the model; what is tested here is the same with any.
    let load = LoadOptions { backend: BackendChoice::Reference, ..LoadOptions::default() };
    LazyOptions {
        store: StoreOptions { home, offline: true, ..StoreOptions::default() },
        load,
        keep_alive,
    }
}

fn small(keep_alive: KeepAlive) -> LazyModel {
    LazyModel::new(SMALL.parse().expect("catalogue"), options(keep_alive))
}

#[test]
fn making_one_takes_under_a_millisecond_and_touches_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let home = dir.path().join("home");
    let model: ModelRef = SMALL.parse().expect("catalogue");
    let store = StoreOptions { home: Some(home.clone()), ..StoreOptions::default() };
    let options = LazyOptions { store, ..LazyOptions::default() };
    let best = (0..10)
        .map(|_| {
            let begun = Instant::now();
            let lazy = LazyModel::new(model.clone(), options.clone());
            let taken = begun.elapsed();
            assert_eq!(lazy.state(), LoadState::Unloaded);
            taken
        })
        .min();
    assert!(best < Some(Duration::from_millis(1)), "{best:?}");
    assert!(!home.exists());
}

#[test]
fn a_hundred_callers_cause_one_load() {
    let lazy = small(KeepAlive::Forever);
    let mut watcher = lazy.subscribe();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("runtime");
    runtime.block_on(async {
        let mut mappings = 0;
        let watching = async {
            loop {
                watcher.changed().await.expect("the lazy lives");
                match &*watcher.borrow_and_update() {
                    LoadState::Loading { event: LoadEvent::Mapping } => mappings += 1,
                    LoadState::Ready => return,
                    _ => {}
                }
            }
        };
        let callers: Vec<_> = (0..100)
            .map(|_| {
                let lazy = lazy.clone();
                tokio::spawn(async move { lazy.get().await })
            })
            .collect();
        watching.await;
        let mut leases = Vec::new();
        for caller in callers {
            leases.push(caller.await.expect("no panic").expect("loads"));
        }
        let first: &hapa_model::Model = &leases[0];
        assert!(
            leases.iter().all(|lease| std::ptr::eq::<hapa_model::Model>(&**lease, first)),
            "all share one model"
        );
        assert_eq!(leases[0].info().name, SMALL);
        assert_eq!(lazy.leases(), 100);
        assert!(mappings <= 1);
    });
}

#[test]
fn after_a_failure_the_next_call_loads() {
    let resolved = real_model(SMALL).expect("the small model");
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, b"GGUF, but not really").expect("write");
    let lazy = LazyModel::new(ModelRef::Path(path.clone()), options(KeepAlive::Forever));
    let error = lazy.blocking_get().expect_err("not a model");
    assert!(matches!(*error, ModelError::InvalidGguf { .. }), "{error}");
    assert_eq!(lazy.state(), LoadState::Failed { message: error.to_string() });
    std::fs::remove_file(&path).expect("remove");
    std::fs::copy(&resolved.path, &path).expect("copy");
    let lease = lazy.blocking_get().expect("loads now");
    assert_eq!(lease.info().digest, resolved.digest);
}

#[test]
fn offline_without_the_model_is_said() {
    let dir = tempfile::tempdir().expect("dir");
    let store = StoreOptions {
        home: Some(dir.path().to_owned()),
        hub_cache: Some(dir.path().join("hf")),
        offline: true,
        ..StoreOptions::default()
    };
    let options = LazyOptions { store, ..LazyOptions::default() };
    let lazy = LazyModel::new(SMALL.parse().expect("catalogue"), options);
    let error = lazy.blocking_get().expect_err("not here");
    assert!(matches!(*error, ModelError::Offline { .. }), "{error}");
}

/// Bytes of this process that are in memory.
#[cfg(target_os = "linux")]
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages: u64 = text.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("resident pages");
    pages * 4096
}

#[cfg(target_os = "linux")]
#[test]
fn unloading_and_idling_give_the_memory_back() {
    // Half of the model's 98 MB: what must at least come and go. Other tests may run in this process under
    // `cargo test`, so each figure is given time to settle.
    const MUCH: u64 = 49_000_000;
    let lazy = small(KeepAlive::For(Duration::from_millis(300)));
    let before = resident_bytes();
    let falls = |what: &str| {
        let end = Instant::now() + Duration::from_secs(20);
        while resident_bytes() > before + MUCH / 2 {
            assert!(
                Instant::now() < end,
                "{what}: {before} bytes before, {} now",
                resident_bytes()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let lease = lazy.blocking_get().expect("loads");
    let prompt = lease.encode("def add(a, b):").expect("tokens");
    lease.score(prompt).expect("touches every weight");
    let loaded = resident_bytes();
    assert!(loaded > before + MUCH, "{before} bytes before, {loaded} loaded");
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(lazy.state(), LoadState::Ready, "never under a lease");
    assert_eq!(lazy.unload(), Unload::WhenIdle);
    drop(lease);
    assert_eq!(lazy.state(), LoadState::Unloaded);
    falls("after unload");

    let lease = lazy.blocking_get().expect("loads again");
    let prompt = lease.encode("def add(a, b):").expect("tokens");
    lease.score(prompt).expect("touches every weight");
    drop(lease);
    falls("after idling");
    // The memory goes first, on the thread that then says so.
    let end = Instant::now() + Duration::from_secs(20);
    while lazy.state() != LoadState::Unloaded {
        assert!(Instant::now() < end, "{:?} although the memory is back", lazy.state());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_abandoned_load_ends_and_a_new_caller_is_served() {
    let lazy = small(KeepAlive::Forever);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("runtime");
    for _ in 0..5 {
        let waiting = runtime.spawn({
            let lazy = lazy.clone();
            async move { lazy.get().await.map(|_| ()) }
        });
        while lazy.state() == LoadState::Unloaded {
            std::thread::yield_now();
        }
        waiting.abort();
        let _ = runtime.block_on(waiting);
        let end = Instant::now() + Duration::from_secs(20);
        while matches!(lazy.state(), LoadState::Loading { .. }) {
            assert!(Instant::now() < end, "an abandoned load goes on");
            std::thread::sleep(Duration::from_millis(1));
        }
        // It was abandoned, or it had just been served and nobody uses it.
        assert_eq!(lazy.leases(), 0);
        lazy.unload();
    }
    assert_eq!(lazy.blocking_get().expect("served").info().name, SMALL);
}
