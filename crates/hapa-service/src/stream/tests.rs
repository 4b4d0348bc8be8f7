//! Who makes a shared answer when its task went away.

use std::time::Duration;

use hapa_model::testing::TinyModel;
use hapa_model::{LazyOptions, ModelPool, ModelRef, PoolOptions};

use super::*;
use crate::admission::{Admission, AdmissionOptions};
use crate::answer::CacheOutcome;
use crate::error::ErrorKind;
use crate::inner::Parts;
use crate::key;
use crate::limits::Limits;
use crate::request::Request;
use crate::served::Served;

/// What a service with one place shares, and where its tiny model is.
fn shared() -> (Arc<Inner>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    TinyModel::qwen2().write(&path).unwrap();
    let mut lazy = LazyOptions::default();
    lazy.load.threads = 1;
    let (pool, reference) = (ModelPool::new(PoolOptions::default()), ModelRef::Path(path));
    let model = pool.add(reference.clone(), lazy);
    let admission = Admission::new(AdmissionOptions::default(), 1);
    let parts = Parts {
        served: vec![Arc::new(Served::new(reference, model, admission, 1))],
        pool,
        cache: None,
        typed: None,
        lead_patience: Duration::ZERO,
        limits: Limits::default(),
        load_wait: None,
    };
    (Arc::new(Inner::new(parts)), folder)
}

/// Streams of requests that share a generation whose task went away at once.
fn orphans(inner: &Arc<Inner>, requests: Vec<Request>) -> Vec<AnswerStream> {
    let digest = key::digest(&requests[0], "tiny", 2048).unwrap();
    let mut producers = Vec::new();
    let streams = requests.into_iter().map(|request| {
        let join = inner.flights.join(digest.key);
        producers.extend(join.producer);
        let job = Job {
            inner: Arc::clone(inner),
            served: Arc::clone(&inner.served[0]),
            request: Arc::new(request),
            digest,
            group: None,
            model: Arc::from("tiny"),
            shared: true,
            timeline: Timeline::default(),
        };
        let report = CacheReport::new(CacheOutcome::Shared, &digest);
        AnswerStream::flight(join.waiter, job, report, Instant::now())
    });
    let streams: Vec<_> = streams.collect();
    assert_eq!(producers.len(), 1, "they share it");
    streams
}

fn ask() -> Request {
    Request { max_tokens: 4, ..Request::raw("shared") }
}

#[tokio::test]
async fn who_takes_over_needs_a_place() {
    let (inner, _folder) = shared();
    let place = inner.served[0].enter(&Request::raw("another"), None).unwrap();
    for stream in orphans(&inner, vec![ask(), ask(), ask()]) {
        // Nobody is left to make it: they all must come back.
        let refused = stream.answer().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Overloaded, "{refused}");
        assert!(refused.retry_after().is_some());
    }
    assert_eq!(inner.served[0].admission.stats().refused_full, 1, "one asked for all");

    drop(place);
    let mut texts = Vec::new();
    for stream in orphans(&inner, vec![ask(), ask()]) {
        texts.push(stream.answer().await.unwrap().text);
    }
    assert_eq!(texts[0], texts[1]);
    assert_eq!(inner.flights.stats().finished, 1);
    let stats = inner.served[0].admission.stats();
    assert_eq!((stats.requests, stats.tokens, stats.refused_full), (0, 0, 1));
}

#[tokio::test]
async fn the_deadline_of_who_takes_over_is_its_own() {
    let (inner, _folder) = shared();
    // Now it is known how fast the engine is, and a deadline that is past would be refused.
    for stream in orphans(&inner, vec![ask()]) {
        stream.answer().await.unwrap();
    }
    let past = Some(Instant::now());
    let refused = inner.served[0].enter(&ask(), past).unwrap_err();
    assert!(matches!(refused, ServiceError::TooSlow { .. }), "{refused}");
    let hurried = Request { deadline: past, ..ask() };
    for stream in orphans(&inner, vec![hurried, ask()]) {
        stream.answer().await.unwrap();
    }
}
