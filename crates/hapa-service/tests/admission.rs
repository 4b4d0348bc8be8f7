//! Who is let in, who is refused, what a deadline ends; with a tiny random model.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hapa_model::testing::TinyModel;
use hapa_model::{GenerateRequest, Generation};
use hapa_service::{
    AnswerEvent, CacheOutcome, EngineStats, ErrorKind, FinishReason, ModelRef, Request, Service,
    ServiceError, ServiceOptions,
};

struct Fixture {
    service: Service,
    _folder: tempfile::TempDir,
}

/// A service whose engine runs one request and lets `queue` wait.
fn fixture(queue: usize, change: impl FnOnce(&mut ServiceOptions)) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    TinyModel::qwen2().write(&path).unwrap();
    let mut options = ServiceOptions::new(ModelRef::Path(path));
    options.lazy.load.threads = 1;
    options.lazy.load.max_sequences = 1;
    options.lazy.load.queue_limit = queue;
    // Of an answer that nobody reads the engine writes two events, and holds its place.
    options.lazy.load.stream_events = 2;
    change(&mut options);
    Fixture { service: Service::new(options).unwrap(), _folder: folder }
}

fn ask(prompt: &str) -> Request {
    let mut request = Request::raw(prompt);
    request.max_tokens = 8;
    request
}

fn with_deadline(prompt: &str, after: Duration) -> Request {
    Request { deadline: Some(Instant::now() + after), ..ask(prompt) }
}

/// Takes the only place in the batch, until it is dropped.
async fn occupy(service: &Service) -> Generation {
    let lease = service.load().await.unwrap();
    let prompt = lease.encode("occupied").unwrap();
    let generation = lease.generate(GenerateRequest::new(prompt, 40)).unwrap();
    until("it runs", || engine(service).running == 1).await;
    generation
}

fn engine(service: &Service) -> EngineStats {
    service.stats().engine.expect("a model is loaded")
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn nothing_is_left(service: &Service) {
    until("nothing runs or waits", || {
        let stats = service.stats();
        let engine = stats.engine.expect("a model is loaded");
        (engine.running, engine.waiting, engine.kv.held_pages) == (0, 0, 0)
            && (stats.admission.requests, stats.admission.tokens) == (0, 0)
            && stats.flights.in_flight == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hits_and_shared_generations_need_no_place() {
    let Fixture { service, _folder } = fixture(2, |_| {});
    let mut kept = ask("kept");
    kept.max_tokens = 24;
    kept.cache.no_store = true;
    let text = service.predict(kept.clone()).await.unwrap().text;
    let middle: Vec<char> = text.chars().collect();
    kept.stop = vec![middle[middle.len() / 2..].iter().take(3).collect()];
    kept.cache.no_store = false;
    assert_eq!(service.predict(kept.clone()).await.unwrap().finish, FinishReason::StopString);

    let occupied = occupy(&service).await;
    let waiting: Vec<_> = (0..2)
        .map(|number| {
            let (service, request) = (service.clone(), ask(&format!("wait {number}")));
            tokio::spawn(async move { service.predict(request).await })
        })
        .collect();
    // The place in the batch is held beside the service: two more fill the queue.
    until("the queue is full", || engine(&service).waiting == 2).await;

    let refused = service.predict(ask("one too many")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Overloaded, "{refused}");
    assert!(refused.retry_after().is_some_and(|wait| wait >= Duration::from_secs(1)));
    let hit = service.predict(kept).await.unwrap();
    assert_eq!(hit.cache.outcome, CacheOutcome::HitL1);
    let shared = tokio::spawn({
        let service = service.clone();
        async move { service.predict(ask("wait 1")).await }
    });
    until("it shares", || service.stats().requests.shared == 1).await;

    drop(occupied);
    for waiting in waiting.into_iter().chain([shared]) {
        assert_eq!(waiting.await.unwrap().unwrap().usage.generated_tokens, 8);
    }
    nothing_is_left(&service).await;
    let stats = service.stats();
    assert_eq!((stats.admission.refused_full, stats.requests.failed), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_for_the_load_hold_places_too() {
    let Fixture { service, _folder } = fixture(2, |_| {});
    let requests = (0..10).map(|number| service.predict(ask(&format!("cold {number}"))));
    let outcomes = join_all(requests).await;
    let (answered, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((answered.len(), refused.len()), (3, 7));
    assert!(
        refused
            .iter()
            .flat_map(|outcome| outcome.as_ref().err())
            .all(|error| error.kind() == ErrorKind::Overloaded)
    );
    nothing_is_left(&service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_that_wait_are_bounded_in_tokens() {
    let Fixture { service, _folder } = fixture(10, |options| options.admission.queue_tokens = 100);
    let occupied = occupy(&service).await;
    let long = tokio::spawn({
        let service = service.clone();
        async move { service.predict(ask(&"word ".repeat(70))).await }
    });
    until("it waits", || engine(&service).waiting == 1).await;
    assert!(engine(&service).waiting_tokens > 50, "{:?}", engine(&service));
    let refused = service.predict(ask(&"other ".repeat(70))).await.unwrap_err();
    assert!(refused.to_string().contains("tokens"), "{refused}");
    drop(occupied);
    long.await.unwrap().unwrap();
    service.predict(ask(&"other ".repeat(70))).await.unwrap();
    nothing_is_left(&service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_has_passed_loads_nothing() {
    let Fixture { service, _folder } = fixture(1, |_| {});
    let error = service.predict(with_deadline("late", Duration::ZERO)).await.unwrap_err();
    assert!(matches!(error, ServiceError::DeadlinePassed), "{error}");
    assert!(service.stats().model.is_none());
    assert_eq!(service.stats().requests.deadline_passed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_does_not_give_the_load_up() {
    let Fixture { service, _folder } = fixture(1, |_| {});
    // Whether it is in time or not, the load that it began goes on.
    let _ = service.predict(with_deadline("cold", Duration::from_millis(50))).await;
    until("it is loaded", || service.model().loaded().is_some()).await;
    nothing_is_left(&service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_a_request_that_waits() {
    let Fixture { service, _folder } = fixture(4, |_| {});
    let occupied = occupy(&service).await;
    let mut patience = Duration::from_millis(50);
    // The first of these times may be shorter than the outlook, or over before the request is in the queue.
    while engine(&service).cancelled_requests == 0 {
        let error = service.predict(with_deadline("waits", patience)).await.unwrap_err();
        assert!(is_about_time(&error), "{error}");
        until("it has left", || service.stats().flights.in_flight == 0).await;
        patience *= 2;
    }
    until("the queue is empty", || engine(&service).waiting == 0).await;
    assert_eq!(engine(&service).running, 1);
    assert!(service.stats().requests.deadline_passed > 0);
    drop(occupied);
    nothing_is_left(&service).await;
}

fn is_about_time(error: &ServiceError) -> bool {
    matches!(error, ServiceError::DeadlinePassed | ServiceError::TooSlow { .. })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_leaves_a_shared_generation_to_the_others() {
    let Fixture { service, _folder } = fixture(4, |_| {});
    let occupied = occupy(&service).await;
    let ask_for = |request| {
        let service = service.clone();
        tokio::spawn(async move { service.predict(request).await })
    };
    let mut patience = Duration::from_millis(100);
    let patient = loop {
        let hurried = ask_for(with_deadline("shared", patience));
        until("it waits", || engine(&service).waiting == 1 || hurried.is_finished()).await;
        let misses = service.stats().requests.misses;
        let patient = ask_for(ask("shared"));
        let error = hurried.await.unwrap().unwrap_err();
        assert!(is_about_time(&error), "{error}");
        let joined = || service.stats().requests.shared == 1;
        until("it joined or leads", || joined() || service.stats().requests.misses > misses).await;
        if joined() {
            break patient;
        }
        // That time was shorter than the outlook, or over before the second one came.
        patience *= 2;
        patient.abort();
        until("it has left", || service.stats().flights.in_flight == 0).await;
    };
    until("somebody still waits for it", || engine(&service).waiting == 1).await;
    drop(occupied);
    let answer = patient.await.unwrap().unwrap();
    assert_eq!((answer.cache.outcome, answer.usage.generated_tokens), (CacheOutcome::Shared, 8));
    nothing_is_left(&service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_a_stream_that_has_begun() {
    let Fixture { service, _folder } = fixture(4, |_| {});
    drop(service.load().await.unwrap());
    let mut patience = Duration::from_millis(200);
    let mut stream = loop {
        let mut request = with_deadline(&format!("streams {patience:?}"), patience);
        request.max_tokens = 400;
        match service.predict_stream(request).await {
            Ok(stream) => break stream,
            // On a busy machine nothing may be written in that time.
            Err(error) => assert!(patience < Duration::from_secs(20), "{error}"),
        }
        patience *= 2;
    };
    let before = service.stats().requests.deadline_passed;
    assert!(matches!(stream.next().await, Some(Ok(AnswerEvent::Text(_)))));
    // Read on when the time is over: whatever has been written since, it is too late.
    tokio::time::sleep(patience).await;
    assert!(matches!(stream.next().await, Some(Err(ServiceError::DeadlinePassed))));
    assert!(stream.next().await.is_none());
    nothing_is_left(&service).await;
    assert_eq!(service.stats().requests.deadline_passed, before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_would_wait_too_long_is_refused_before_any_work() {
    let Fixture { service, _folder } =
        fixture(4, |options| options.admission.first_token = Some(Duration::from_nanos(1)));
    let first = service.predict(ask("nothing is known of the speed")).await;
    first.unwrap();
    let taken_up = engine(&service).prompt_tokens;
    let error = service.predict(ask("and now it is")).await.unwrap_err();
    let ServiceError::TooSlow { predicted, allowed, retry_after } = error else {
        panic!("{error}");
    };
    assert!(predicted > allowed && retry_after >= Duration::from_secs(1));
    assert_eq!(engine(&service).prompt_tokens, taken_up);
    assert_eq!(service.stats().admission.refused_slow, 1);
    nothing_is_left(&service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_asks_for_much_does_not_keep_another_waiting() {
    let Fixture { service, _folder } = fixture(64, |_| {});
    let occupied = occupy(&service).await;
    let lease = service.load().await.unwrap();
    let prompt = lease.encode("greedy").unwrap();
    let greedy = || GenerateRequest { namespace: 1, ..GenerateRequest::new(prompt.clone(), 40) };
    // Nobody reads these: the one that is taken up holds the place in the batch until it is dropped.
    let mut greedy: Vec<_> = (0..20).map(|_| lease.generate(greedy()).unwrap()).collect();
    let mut modest = ask("modest");
    modest.cache.namespace = "modest".to_owned();
    let modest = tokio::spawn({
        let service = service.clone();
        async move { service.predict(modest).await }
    });
    until("all wait", || engine(&service).waiting == 21).await;
    drop(occupied);
    until("the first is taken up", || {
        (engine(&service).waiting, engine(&service).running) == (20, 1)
    })
    .await;
    assert!(!modest.is_finished(), "it came last");
    drop(greedy.remove(0));
    // First come, first served would take up another one that nobody reads.
    until("it is the other's turn", || modest.is_finished()).await;
    modest.await.unwrap().unwrap();
    drop(greedy);
    nothing_is_left(&service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_supersedes_gets_the_place_of_the_other() {
    // Room for one prompt that waits, and not for two.
    let Fixture { service, _folder } = fixture(8, |options| options.admission.queue_tokens = 60);
    let occupied = occupy(&service).await;
    let long = |name: &str| format!("{name} = 1\n").repeat(16);
    let document = |prompt: &str| {
        let mut request = ask(&long(prompt));
        request.document_id = Some("document".to_owned());
        let service = service.clone();
        tokio::spawn(async move { service.predict(request).await })
    };
    let first = document("first");
    until("it waits", || engine(&service).waiting == 1).await;
    let second = document("second");
    let first = first.await.unwrap().unwrap_err();
    assert_eq!(first.kind(), ErrorKind::Superseded);
    until("its place is taken over", || engine(&service).waiting == 1).await;
    let refused = service.predict(ask(&long("third"))).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Overloaded);
    drop(occupied);
    second.await.unwrap().unwrap();
    assert_eq!(service.stats().admission.refused_full, 1, "of the third alone");
    nothing_is_left(&service).await;
}
