//! Several models in one service: each answers as itself, the cache keeps them apart, memory is shared.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hapa_model::testing::TinyModel;
use hapa_service::{
    AnswerEvent, CacheOutcome, EncodeOptions, ErrorKind, LoadState, ModelRef, Request, Service,
    ServiceError, ServiceOptions, Task,
};

struct Fixture {
    /// Asks `one`.
    one: Service,
    /// The same, asking `two`.
    two: Service,
    _folder: tempfile::TempDir,
}

/// Two tiny models, `one` and `two`.
fn fixture(change: impl FnOnce(&mut ServiceOptions)) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(format!("{name}.gguf"));
    TinyModel::qwen2().write(path("one")).unwrap();
    TinyModel::qwen2().seed(7).write(path("two")).unwrap();
    let mut options = ServiceOptions::new(ModelRef::Path(path("one")));
    options.models = vec![ModelRef::Path(path("two"))];
    options.lazy.load.threads = 1;
    options.lazy.load.kv_budget_bytes = Some(1 << 20);
    change(&mut options);
    let one = Service::new(options).unwrap();
    let two = one.for_model("two").unwrap();
    Fixture { one, two, _folder: folder }
}

/// A budget that holds one of the two, and not both.
async fn room_for_one() -> u64 {
    let Fixture { one, two, _folder } = fixture(|_| {});
    let bytes = |service: &Service| service.model().held_bytes();
    drop((one.load().await.unwrap(), two.load().await.unwrap()));
    assert!(bytes(&one) > 1 << 20 && bytes(&two) > 1 << 20);
    assert_eq!(one.stats().memory.held_bytes, bytes(&one) + bytes(&two));
    bytes(&one).max(bytes(&two)) + 1
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A request whose answer is kept although it does not end by itself: a stop string that its model writes late.
async fn ending(service: &Service, prompt: &str) -> Request {
    let mut request = Request::raw(prompt);
    request.max_tokens = 24;
    let long = service.predict(request.clone()).await.unwrap();
    let text: Vec<char> = long.text.chars().collect();
    request.stop = vec![text[text.len() / 2..].iter().take(3).collect()];
    assert!(!request.stop[0].is_empty(), "the model wrote {:?}", long.text);
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn each_model_answers_as_itself_and_the_cache_keeps_them_apart() {
    let Fixture { one, two, _folder } = fixture(|_| {});
    assert_eq!(one.names().collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!((one.name(), two.name()), ("one", "two"));
    assert!(one.for_model("three").is_none());
    let request = ending(&one, "def f(x):").await;
    let first = one.predict(request.clone()).await.unwrap();
    let second = two.predict(request.clone()).await.unwrap();
    assert_eq!((&*first.model, &*second.model), ("one", "two"));
    assert_eq!(
        (first.cache.outcome, second.cache.outcome),
        (CacheOutcome::Miss, CacheOutcome::Miss)
    );
    assert_ne!(first.cache.key, second.cache.key);
    assert_ne!(first.text, second.text);
    let again = one.predict(request).await.unwrap();
    assert_eq!((again.cache.outcome, &again.text), (CacheOutcome::HitL1, &first.text));
    let stats = two.stats();
    assert_eq!(stats.models.len(), 2);
    assert!(stats.models.iter().all(|model| model.engine.is_some() && model.bytes > 0));
    assert_eq!(stats.model.unwrap().name, "two", "the handle's own");
    let tokens = two
        .tokenize("x = 1".to_owned(), EncodeOptions { add_bos: false, parse_special: true }, None)
        .await
        .unwrap();
    assert_eq!(two.detokenize(tokens, None).await.unwrap(), "x = 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_that_is_typed_is_no_answer_of_another_model() {
    let Fixture { one, two, _folder } = fixture(|_| {});
    let mut request = Request::complete("def mean(values):\n    ", "\n");
    request.max_tokens = 24;
    request.cache.no_store = true;
    let long = one.predict(request.clone()).await.unwrap();
    let text: Vec<char> = long.text.chars().collect();
    request.stop = vec![text[text.len() / 2..].iter().take(3).collect()];
    request.cache.no_store = false;
    let whole = one.predict(request.clone()).await.unwrap();
    let Task::Complete { prefix, .. } = &mut request.task else { panic!("a completion") };
    prefix.push(whole.text.chars().next().unwrap());
    let typed = one.predict(request.clone()).await.unwrap();
    assert!(typed.cache.typed_through, "{:?}", typed.cache);
    let other = two.predict(request).await.unwrap();
    assert!(!other.cache.typed_through && !other.cache.outcome.is_hit(), "{:?}", other.cache);
}

#[test]
fn two_models_of_one_name_are_refused() {
    let mut options = ServiceOptions::new(ModelRef::Path("a/m.gguf".into()));
    options.models = vec![ModelRef::Path("b/m.gguf".into())];
    let error = Service::new(options).unwrap_err();
    assert_eq!(error.field(), Some("models"));
    let said = error.to_string();
    assert!(
        said.contains("a/m.gguf") && said.contains("b/m.gguf") && said.contains("`m`"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_leaves_for_another_and_its_answers_stay() {
    let budget = room_for_one().await;
    let Fixture { one, two, _folder } = fixture(|options| options.memory_budget = Some(budget));
    let request = ending(&one, "def f(x):").await;
    let first = one.predict(request.clone()).await.unwrap();
    let mut other = Request::raw("x = ");
    other.max_tokens = 4;
    two.predict(other).await.unwrap();
    until("one has left", || one.model().state() == LoadState::Unloaded).await;
    assert_eq!(one.model().unloads().room, 1);
    assert!(one.stats().memory.held_bytes <= budget);
    let kept = one.predict(request).await.unwrap();
    assert_eq!((kept.cache.outcome, &kept.text), (CacheOutcome::HitL1, &first.text));
    assert_eq!(two.model().state(), LoadState::Ready, "a hit loads nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_not_interrupted_by_another_model() {
    let budget = room_for_one().await;
    let Fixture { one, two, _folder } = fixture(|options| options.memory_budget = Some(budget));
    let mut long = Request::raw("def f(x):");
    long.max_tokens = 300;
    long.cache.no_cache = true;
    let expected = one.predict(long.clone()).await.unwrap().text;
    let lease = one.load().await.unwrap();
    let mut stream = one.predict_stream(long).await.unwrap();
    let mut short = Request::raw("x = ");
    short.max_tokens = 4;
    let waiting = tokio::spawn({
        let (two, short) = (two.clone(), short.clone());
        async move { two.predict(short).await }
    });
    until("it waits for room", || one.stats().memory.waiting == 1).await;
    let mut text = String::new();
    while let Some(event) = stream.next().await {
        if let AnswerEvent::Text(piece) = event.unwrap() {
            text.push_str(&piece);
        }
    }
    assert_eq!(text, expected);
    assert_eq!(one.model().state(), LoadState::Ready);
    let deadline = Some(Instant::now() + Duration::from_millis(100));
    let late = two.predict(Request { deadline, ..Request::raw("late") }).await.unwrap_err();
    assert!(matches!(late, ServiceError::DeadlinePassed), "{late}");
    drop(lease);
    assert_eq!(&*waiting.await.unwrap().unwrap().model, "two");
    assert_eq!(one.model().unloads().room, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_steady_stream_of_requests_keeps_no_other_model_out() {
    let budget = room_for_one().await;
    let Fixture { one, two, _folder } = fixture(|options| options.memory_budget = Some(budget));
    let (done, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let askers: Vec<_> = (0..3)
        .map(|asker| {
            let (one, done, served) = (one.clone(), Arc::clone(&done), Arc::clone(&served));
            tokio::spawn(async move {
                let mut number = 0;
                while !done.load(Ordering::SeqCst) {
                    let mut request = Request::raw(format!("{asker} {number}"));
                    request.max_tokens = 60;
                    one.predict(request).await.unwrap();
                    served.fetch_add(1, Ordering::SeqCst);
                    number += 1;
                }
            })
        })
        .collect();
    until("the stream runs", || served.load(Ordering::SeqCst) > 3).await;
    let mut request = Request::raw("x = ");
    request.max_tokens = 4;
    let answer = tokio::time::timeout(Duration::from_secs(20), two.predict(request)).await;
    assert_eq!(&*answer.expect("it is let in").unwrap().model, "two");
    let before = served.load(Ordering::SeqCst);
    until("the stream goes on", || served.load(Ordering::SeqCst) > before + 3).await;
    done.store(true, Ordering::SeqCst);
    for asker in askers {
        asker.await.unwrap();
    }
    assert!(one.stats().memory.held_bytes <= budget);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_cannot_be_loaded_takes_no_room() {
    let budget = room_for_one().await;
    let Fixture { one, _folder, .. } = fixture(|options| {
        options.memory_budget = Some(budget);
        options.models.push(ModelRef::Path("nowhere.gguf".into()));
    });
    drop(one.load().await.unwrap());
    let broken = one.for_model("nowhere").unwrap();
    let error = broken.predict(Request::raw("x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ModelUnavailable, "{error}");
    assert_eq!(one.model().state(), LoadState::Ready, "nobody left for it");
    assert_eq!(one.stats().memory.held_bytes, one.model().held_bytes());
}
