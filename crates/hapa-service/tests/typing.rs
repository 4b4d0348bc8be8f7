//! Completions while somebody types, with a tiny random model: what is computed, reused, cancelled.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

use std::time::{Duration, Instant};

use hapa_model::testing::TinyModel;
use hapa_service::{
    CacheOutcome, EncodeOptions, ErrorKind, FinishReason, ModelRef, Request, Service,
    ServiceOptions, Task,
};

struct Fixture {
    service: Service,
    _folder: tempfile::TempDir,
}

fn tiny() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    TinyModel::qwen2().write(&path).unwrap();
    let mut options = ServiceOptions::new(ModelRef::Path(path));
    options.lazy.load.threads = 1;
    Fixture { service: Service::new(options).unwrap(), _folder: folder }
}

fn engine(service: &Service) -> hapa_service::EngineStats {
    service.stats().engine.expect("a model is loaded")
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

const FILE: &str = "import os\n\n\ndef mean(values):\n    total = 0\n    for value in values:\n        total += value\n    return total / len(values)\n\n\ndef median(values):\n    ordered = ";
const REST: &str = "\n    return ordered[len(ordered) // 2]\n";
const TYPED: &str = "sorted(values)";

/// A request at the end of what is typed, which the model alone would never end. Not Python, so that no block ends it either.
fn keystroke(typed: &str) -> Request {
    let mut request = Request::complete(format!("{FILE}{typed}"), REST);
    if let Task::Complete { language, .. } = &mut request.task {
        language.clear();
    }
    request.max_tokens = 300;
    request.document_id = Some("median.py".to_owned());
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typing_session() {
    let Fixture { service, _folder } = tiny();
    service.load().await.unwrap();
    let mut under_way = Vec::new();
    for end in 0..=TYPED.len() {
        let request = keystroke(&TYPED[..end]);
        let (service_of, asked) = (service.clone(), engine(&service).prompt_tokens);
        let task = tokio::spawn(async move { service_of.predict(request).await });
        // Or it goes on with what is being written: at first, until that turns out to be something else, or to the end.
        let taken_up = || engine(&service).prompt_tokens > asked || task.is_finished();
        until("the engine took it up", taken_up).await;
        under_way.push(task);
    }
    let newest = under_way.pop().unwrap();
    let keystrokes = under_way.len();
    // On a slow machine a keystroke may find the last answer whole already; else that one is cancelled.
    let mut superseded = 0;
    for old in under_way {
        if let Err(error) = old.await.unwrap() {
            assert_eq!(error.kind(), ErrorKind::Superseded, "{error}");
            superseded += 1;
        }
    }
    let answer = newest.await.unwrap().unwrap();
    assert_eq!(answer.finish, FinishReason::Length);
    until("nothing goes on for nobody", || {
        let stats = engine(&service);
        (stats.running, stats.waiting) == (0, 0)
            && stats.cancelled_requests + stats.finished_requests == service.stats().requests.misses
    })
    .await;
    assert_eq!(service.stats().requests.superseded, superseded);

    // The text before the cursor is the beginning of the prompt: what was read for the last keystroke is read no more.
    let (stats, own) = (engine(&service), answer.usage);
    let suffix_tokens = service
        .tokenize(REST.to_owned(), EncodeOptions { add_bos: false, parse_special: true }, None)
        .await
        .unwrap()
        .len();
    let page_tokens = stats.kv.page_tokens;
    assert!(
        own.cached_tokens + suffix_tokens + 2 * page_tokens + 4 >= own.prompt_tokens,
        "of {} prompt tokens only {} were reused",
        own.prompt_tokens,
        own.cached_tokens
    );
    let computed = stats.prompt_tokens - stats.cached_tokens;
    println!(
        "{} requests, {superseded} cancelled; {} prompt tokens, {} of them reused, {computed} computed; {} generated",
        keystrokes + 1,
        stats.prompt_tokens,
        stats.cached_tokens,
        stats.generated_tokens,
    );
}

/// What the model writes at the end of what is typed, when nobody types on.
async fn undisturbed(typed: &str) -> String {
    let Fixture { service, _folder } = tiny();
    service.predict(keystroke(typed)).await.unwrap().text
}

#[tokio::test(flavor = "multi_thread")]
async fn who_types_what_is_being_written_gets_the_rest_of_it() {
    let written = undisturbed("").await;
    let typed: String = written.chars().take(5).collect();
    let Fixture { service, _folder } = tiny();
    service.load().await.unwrap();
    let longer: String = written.chars().take(9).collect();
    let (first, second, third) = tokio::join!(
        service.predict(keystroke("")),
        service.predict(keystroke(&typed)),
        service.predict(keystroke(&longer)),
    );
    assert_eq!(first.unwrap_err().kind(), ErrorKind::Superseded);
    assert_eq!(second.unwrap_err().kind(), ErrorKind::Superseded);
    let answer = third.unwrap();
    assert_eq!(format!("{longer}{}", answer.text), written);
    assert_eq!(answer.code.as_deref(), Some(answer.text.as_str()));
    assert!(answer.cache.typed_through, "{:?}", answer.cache);
    assert_eq!(answer.cache.outcome, CacheOutcome::Shared);
    let stats = engine(&service);
    assert_eq!((stats.finished_requests, stats.cancelled_requests), (1, 0));
    assert_eq!(stats.prompt_tokens, answer.usage.prompt_tokens as u64, "read once");
    let requests = service.stats().requests;
    assert_eq!((requests.misses, requests.shared, requests.superseded), (1, 1, 2));

    // As a stream, too; what has been typed is not in it.
    let (_gone, stream) = tokio::join!(
        service.predict_stream(keystroke("")),
        service.predict_stream(keystroke(&typed)),
    );
    let mut stream = stream.unwrap();
    assert!(stream.cache().typed_through);
    let mut text = typed.clone();
    while let Some(event) = stream.next().await {
        if let hapa_service::AnswerEvent::Text(piece) = event.unwrap() {
            text.push_str(&piece);
        }
    }
    assert_eq!(text, written);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_types_something_else_gets_an_answer_of_its_own() {
    let other = "\u{a4}\u{a4}";
    let written = undisturbed(other).await;
    let Fixture { service, _folder } = tiny();
    service.load().await.unwrap();
    let (first, second) =
        tokio::join!(service.predict(keystroke("")), service.predict(keystroke(other)));
    assert_eq!(first.unwrap_err().kind(), ErrorKind::Superseded);
    let answer = second.unwrap();
    assert_eq!(answer.text, written);
    assert!(!answer.cache.typed_through && answer.cache.outcome == CacheOutcome::Miss);
    until("nothing goes on for nobody", || {
        let stats = engine(&service);
        (stats.finished_requests, stats.cancelled_requests) == (1, 1)
    })
    .await;
    assert_eq!(service.stats().requests.misses, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_follows_another_tenant_or_against_its_will() {
    let written = undisturbed("").await;
    let typed: String = written.chars().take(5).collect();
    let Fixture { service, _folder } = tiny();
    service.load().await.unwrap();
    let mut tenant = keystroke(&typed);
    tenant.cache.namespace = "tenant".to_owned();
    let mut fresh = keystroke(&typed);
    (fresh.document_id, fresh.cache.no_cache) = (None, true);
    let mut scored = keystroke(&typed);
    (scored.document_id, scored.logprobs) = (None, Some(0));
    let (first, tenant, fresh, scored) = tokio::join!(
        service.predict(keystroke("")),
        service.predict(tenant),
        service.predict(fresh),
        service.predict(scored),
    );
    assert_eq!(first.unwrap().text, written);
    for answer in [tenant, fresh, scored] {
        assert!(!answer.unwrap().cache.typed_through);
    }
    assert_eq!(engine(&service).finished_requests, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_superseded_before_it_began_costs_nothing() {
    let Fixture { service, _folder } = tiny();
    // The model is still to be loaded: both wait for it.
    let (first, second) = tokio::join!(service.predict(keystroke("a")), async {
        tokio::task::yield_now().await;
        let mut request = keystroke("ab");
        request.max_tokens = 4;
        service.predict(request).await
    });
    assert_eq!(first.unwrap_err().kind(), ErrorKind::Superseded);
    assert_eq!(second.unwrap().usage.generated_tokens, 4);
    assert_eq!(engine(&service).finished_requests, 1);

    // Another tenant's document of the same name is another document; a refused request supersedes nobody.
    let mut other = keystroke("y");
    (other.max_tokens, other.cache.namespace) = (1, "tenant".to_owned());
    let mut refused = keystroke("z");
    refused.max_tokens = 0;
    let (running, other, refused) = tokio::join!(
        service.predict(keystroke("x")),
        service.predict(other),
        service.predict(refused)
    );
    assert!(running.is_ok() && other.is_ok());
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn candidates_are_one_batch_and_ranked() {
    let Fixture { service, _folder } = tiny();
    service.load().await.unwrap();
    let mut request = Request::complete(FILE, REST);
    request.max_tokens = 12;
    if let Task::Complete { language, .. } = &mut request.task {
        language.clear();
    }
    let answers = service.candidates(request.clone(), 5).await.unwrap();
    assert!((2..=5).contains(&answers.len()), "{} candidates", answers.len());
    for pair in answers.windows(2) {
        assert!(pair[0].mean_logprob() >= pair[1].mean_logprob(), "the likeliest first");
        assert_ne!(pair[0].text.trim(), pair[1].text.trim());
    }
    for answer in &answers {
        let tokens = answer.logprobs.as_ref().unwrap();
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.bytes.clone()).collect();
        assert!(
            String::from_utf8_lossy(&bytes).starts_with(&answer.text),
            "the tokens make the text"
        );
    }
    let stats = engine(&service);
    // Each of the others reads what is left of the last page by itself.
    let prompt = answers[0].usage.prompt_tokens;
    assert!(
        stats.prompt_tokens - stats.cached_tokens
            < 2 * prompt as u64 + 5 * stats.kv.page_tokens as u64,
        "{} of {} prompt tokens were computed",
        stats.prompt_tokens - stats.cached_tokens,
        stats.prompt_tokens
    );
    assert!(stats.generated_tokens <= 5 * 12, "what was asked for, and no more: {stats:?}");
    let again = service.candidates(request, 5).await.unwrap();
    let texts = |answers: &[hapa_service::Answer]| -> Vec<String> {
        answers.iter().map(|answer| answer.text.clone()).collect()
    };
    assert_eq!(texts(&again), texts(&answers), "asking again gives the same ones");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_file_beyond_the_context_the_neighbourhood_is_read() {
    let Fixture { service, _folder } = tiny();
    let mut request = Request::complete("x = 1\n".repeat(2_000), "y = 2\n".repeat(2_000));
    request.max_tokens = 4;
    let mut cached = Vec::new();
    for _ in 0..3 {
        let answer = service.predict(request.clone()).await.unwrap();
        assert!(answer.usage.prompt_tokens <= 512 - 4, "{:?}", answer.usage);
        cached.push(answer.usage.cached_tokens);
        if let Task::Complete { prefix, .. } = &mut request.task {
            prefix.push_str("z = 3\n");
        }
    }
    assert!(cached[1..].iter().all(|&cached| cached >= 128), "{cached:?} tokens were reused");
}
