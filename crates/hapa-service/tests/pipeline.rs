//! The pipeline with a tiny random model: what is cached, shared, cancelled, refused.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

use std::time::{Duration, Instant};

use hapa_model::Usage;
use hapa_model::testing::{TinyModel, WriterValue};
use hapa_service::{
    AnswerEvent, AnswerStream, CacheOutcome, EncodeOptions, ErrorKind, FinishReason, LoadState,
    ModelRef, PromptPiece, Request, Service, ServiceError, ServiceOptions, Task,
};

struct Fixture {
    service: Service,
    _folder: tempfile::TempDir,
}

fn fixture(change: impl FnOnce(&mut ServiceOptions)) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    TinyModel::qwen2().write(&path).unwrap();
    let mut options = ServiceOptions::new(ModelRef::Path(path));
    options.lazy.load.threads = 1;
    change(&mut options);
    Fixture { service: Service::new(options).unwrap(), _folder: folder }
}

fn tiny() -> Fixture {
    fixture(|_| {})
}

/// A request whose answer ends by itself: at a text that the model is known to write.
async fn ending(service: &Service) -> Request {
    let mut request = Request::raw("def f(x):");
    request.max_tokens = 24;
    request.cache.no_store = true;
    let long = service.predict(request.clone()).await.unwrap();
    assert_eq!(long.finish, FinishReason::Length);
    // Late in the text, so that something comes before it.
    let middle: Vec<char> = long.text.chars().collect();
    let stop: String = middle[middle.len() / 2..].iter().take(3).collect();
    assert!(!stop.is_empty(), "the model wrote {:?}", long.text);
    request.stop = vec![stop];
    request.cache.no_store = false;
    request
}

/// A request that goes on for as long as the context lasts.
fn endless(prompt: &str) -> Request {
    let mut request = Request::raw(prompt);
    request.max_tokens = 400;
    request
}

async fn read(mut stream: AnswerStream) -> (String, hapa_service::Answer) {
    let mut text = String::new();
    while let Some(event) = stream.next().await {
        match event.unwrap() {
            AnswerEvent::Text(piece) => {
                assert!(!piece.is_empty());
                text.push_str(&piece);
            }
            AnswerEvent::Logprobs(_) => panic!("not asked for"),
            AnswerEvent::Finished(answer) => {
                assert!(stream.next().await.is_none(), "nothing follows the end");
                return (text, *answer);
            }
        }
    }
    panic!("the stream ended without an answer");
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn engine(service: &Service) -> hapa_service::EngineStats {
    service.stats().engine.expect("a model is loaded")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miss_and_then_hits() {
    let Fixture { service, _folder } = tiny();
    let request = ending(&service).await;
    let first = service.predict(request.clone()).await.unwrap();
    assert_eq!(first.cache.outcome, CacheOutcome::Miss);
    assert!(matches!(first.finish, FinishReason::Stop | FinishReason::StopString));
    let generated = engine(&service).generated_tokens;

    let second = service.predict(request.clone()).await.unwrap();
    assert_eq!(second.cache.outcome, CacheOutcome::HitL1);
    assert_eq!((&second.text, &second.cache.key), (&first.text, &first.cache.key));
    // It took no pages of its own.
    let usage = Usage { kv_pages: 0, kv_bytes: 0, ..first.usage };
    assert!(first.usage.kv_pages > 0 && first.usage.kv_bytes > 0, "{:?}", first.usage);
    assert_eq!(second.usage, usage);
    assert_eq!(second.timings.decode, Duration::ZERO);

    let streamed = service.predict_stream(request).await.unwrap();
    assert_eq!(streamed.cache().outcome, CacheOutcome::HitL1);
    let (text, answer) = read(streamed).await;
    assert_eq!((text.as_str(), answer.text.as_str()), (first.text.as_str(), first.text.as_str()));
    assert_eq!(engine(&service).generated_tokens, generated, "hits cost no tokens");
    let counts = service.stats().requests;
    assert_eq!((counts.hits, counts.failed), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_answers_are_not_kept() {
    let Fixture { service, _folder } = tiny();
    let mut request = Request::raw("def f(x):");
    request.max_tokens = 5;
    for _ in 0..2 {
        let answer = service.predict(request.clone()).await.unwrap();
        assert_eq!(
            (answer.finish, answer.cache.outcome),
            (FinishReason::Length, CacheOutcome::Miss)
        );
        assert_eq!(answer.usage.generated_tokens, 5);
    }
    assert_eq!(service.stats().cache.unwrap().entries, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_is_only_read_is_read_for_who_comes_next() {
    let Fixture { service, _folder } = tiny();
    let mut request = Request::raw("def f(x):\n    return x\n".repeat(8));
    request.prompt_only = true;
    for _ in 0..2 {
        let answer = service.predict(request.clone()).await.unwrap();
        assert_eq!((answer.text.as_str(), answer.usage.generated_tokens), ("", 0));
        assert_eq!(
            (answer.finish, answer.cache.outcome),
            (FinishReason::Length, CacheOutcome::Miss)
        );
    }
    assert_eq!(service.stats().cache.unwrap().entries, 0);
    request.prompt_only = false;
    request.max_tokens = 4;
    let usage = service.predict(request).await.unwrap().usage;
    let page_tokens = engine(&service).kv.page_tokens;
    assert_eq!(usage.generated_tokens, 4);
    assert!(usage.cached_tokens + page_tokens >= usage.prompt_tokens, "{usage:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn random_requests_pass_the_cache_by_and_seeded_ones_do_not() {
    let Fixture { service, _folder } = tiny();
    let mut request = ending(&service).await;
    request.sampling.temperature = 0.01; // so cold that it writes what greedy does
    let outcome =
        async |request: &Request| service.predict(request.clone()).await.unwrap().cache.outcome;
    assert_eq!(outcome(&request).await, CacheOutcome::Bypass);
    assert_eq!(outcome(&request).await, CacheOutcome::Bypass);
    request.sampling.seed = Some(5);
    assert_eq!(outcome(&request).await, CacheOutcome::Miss);
    assert_eq!(outcome(&request).await, CacheOutcome::HitL1);
    request.sampling.seed = Some(6);
    assert_eq!(outcome(&request).await, CacheOutcome::Miss);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_says_about_the_cache() {
    let Fixture { service, _folder } = tiny();
    let request = ending(&service).await;
    let outcome =
        async |request: &Request| service.predict(request.clone()).await.unwrap().cache.outcome;

    let mut no_store = request.clone();
    no_store.cache.no_store = true;
    assert_eq!(outcome(&no_store).await, CacheOutcome::Miss);
    assert_eq!(outcome(&no_store).await, CacheOutcome::Miss, "nothing was kept");

    let mut no_cache = request.clone();
    no_cache.cache.no_cache = true;
    assert_eq!(outcome(&no_cache).await, CacheOutcome::Bypass);
    assert_eq!(outcome(&request).await, CacheOutcome::HitL1, "a fresh answer is kept");
    assert_eq!(
        outcome(&no_store).await,
        CacheOutcome::HitL1,
        "no-store may still be answered from the cache"
    );
    assert_eq!(outcome(&no_cache).await, CacheOutcome::Bypass);

    let mut tenant = request.clone();
    tenant.cache.namespace = "other".to_owned();
    assert_eq!(outcome(&tenant).await, CacheOutcome::Miss, "another tenant sees nothing of it");

    assert!(service.clear_cache().await >= 1);
    assert_eq!(outcome(&request).await, CacheOutcome::Miss);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_identical_streams_cost_one_generation() {
    let request = endless("def shared(x):");
    let alone = tiny();
    let reference = alone.service.predict(request.clone()).await.unwrap();
    let cost = engine(&alone.service).generated_tokens;
    assert!(cost > 50, "{cost}");

    let Fixture { service, _folder } = tiny();
    let callers = (0..64).map(|_| {
        let (service, request) = (service.clone(), request.clone());
        tokio::spawn(async move {
            let stream = service.predict_stream(request).await.unwrap();
            let outcome = stream.cache().outcome;
            let (text, answer) = read(stream).await;
            assert_eq!(answer.cache.outcome, outcome);
            (outcome, text)
        })
    });
    let callers: Vec<_> = callers.collect();
    let mut outcomes = Vec::new();
    for caller in callers {
        let (outcome, text) = caller.await.unwrap();
        assert_eq!(text, reference.text);
        outcomes.push(outcome);
    }
    let misses = outcomes.iter().filter(|&&outcome| outcome == CacheOutcome::Miss).count();
    let shared = outcomes.iter().filter(|&&outcome| outcome == CacheOutcome::Shared).count();
    assert_eq!((misses, shared), (1, 63));
    assert_eq!(engine(&service).generated_tokens, cost, "total tokens equal one answer's");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_caller_that_leaves_ends_the_work() {
    let Fixture { service, _folder } = tiny();
    let mut first = service.predict_stream(endless("a")).await.unwrap();
    let mut second = service.predict_stream(endless("a")).await.unwrap();
    assert_eq!(second.cache().outcome, CacheOutcome::Shared);
    assert!(first.next().await.is_some());
    drop(first);
    // The one that stays gets on.
    for _ in 0..3 {
        assert!(matches!(second.next().await, Some(Ok(AnswerEvent::Text(_)))));
    }
    assert_eq!(engine(&service).cancelled_requests, 0);
    drop(second);
    until("the generation is cancelled", || engine(&service).cancelled_requests == 1).await;
    until("nothing runs", || engine(&service).running == 0).await;
    assert_eq!(service.stats().flights.in_flight, 0);
    assert!(engine(&service).generated_tokens < 400);
    assert_eq!(service.stats().cache.unwrap().entries, 0, "a cancelled answer is not kept");

    // A future that is dropped leaves too.
    let call = tokio::time::timeout(Duration::from_millis(30), service.predict(endless("b"))).await;
    if call.is_err() {
        until("the dropped call is cancelled", || engine(&service).running == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_told_and_not_kept() {
    let Fixture { service, _folder } = tiny();
    let long = Request::raw("x ".repeat(2_000));
    for _ in 0..2 {
        let error = service.predict(long.clone()).await.unwrap_err();
        assert_eq!((error.kind(), error.field()), (ErrorKind::Invalid, Some("prompt")));
        assert!(error.is_prompt_too_long(), "{error}");
    }
    let error = service.predict_stream(long).await.expect_err("an error before any event");
    assert!(error.is_prompt_too_long());
    let error = service.predict(Request::generate(" ")).await.unwrap_err();
    assert_eq!(error.field(), Some("user_question"));
    assert_eq!(service.stats().cache.unwrap().entries, 0);
    assert_eq!(service.stats().requests.failed, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_failed_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("later.gguf");
    let service = Service::new(ServiceOptions::new(ModelRef::Path(path.clone()))).unwrap();
    assert_eq!(service.model().state(), LoadState::Unloaded);
    let mut request = Request::raw("a");
    request.max_tokens = 2;
    let error = service.predict(request.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ModelUnavailable, "{error}");
    assert!(error.to_string().contains("later.gguf"), "{error}");
    TinyModel::llama().write(&path).unwrap();
    assert_eq!(service.predict(request).await.unwrap().usage.generated_tokens, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_need_not_wait_for_a_load() {
    let Fixture { service, _folder } = fixture(|options| options.load_wait = Some(Duration::ZERO));
    let mut request = Request::raw("a");
    request.max_tokens = 2;
    let error = service.predict(request.clone()).await.unwrap_err();
    assert!(matches!(error, ServiceError::ModelLoading { .. }), "{error}");
    assert!(error.retry_after().is_some());
    // The load goes on although nobody waits for it any more.
    until("the model is loaded", || service.model().state() == LoadState::Ready).await;
    let answer = loop {
        match service.predict(request.clone()).await {
            Ok(answer) => break answer,
            Err(ServiceError::ModelLoading { .. }) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(answer.usage.generated_tokens, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once() {
    let Fixture { service, _folder } = fixture(|options| {
        options.lazy.load.max_sequences = 1;
        options.lazy.load.queue_limit = 1;
    });
    drop(service.load().await.unwrap());
    let running = service.predict_stream(endless("a")).await.unwrap();
    // One runs, one waits, others are refused: so many at once that no engine could answer them in between.
    let many: Vec<_> = (0..64)
        .map(|number| {
            let service = service.clone();
            tokio::spawn(async move { service.predict(endless(&format!("b{number}"))).await })
        })
        .collect();
    drop(running);
    let (mut answered, mut refused) = (0, 0);
    for task in many {
        match task.await.unwrap() {
            Ok(_) => answered += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Overloaded, "{error}");
                assert!(error.retry_after().unwrap() >= Duration::from_secs(1));
                refused += 1;
            }
        }
    }
    assert!(answered >= 1 && refused >= 1, "{refused} refused, {answered} answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_answers_are_the_same_text() {
    let Fixture { service, _folder } = tiny();
    let mut generate = Request::generate("add two numbers");
    if let Task::Generate { context, .. } = &mut generate.task {
        *context = Some("x = 1\n".to_owned());
    }
    let chat =
        Request::chat(vec![hapa_service::ChatMessage::new(hapa_service::Role::User, "hello")]);
    let complete = Request::complete("def add(a, b):\n    return ", "\n\nprint(add(1, 2))\n");
    for mut request in [generate, chat, complete, Request::raw("x = ")] {
        request.max_tokens = 40;
        let whole = service.predict(request.clone()).await.unwrap();
        let (text, streamed) = read(service.predict_stream(request.clone()).await.unwrap()).await;
        assert_eq!(text, whole.text, "{request:?}");
        assert_eq!(
            (streamed.text, streamed.code, streamed.usage.generated_tokens),
            (whole.text, whole.code, whole.usage.generated_tokens)
        );
        assert!(whole.usage.prompt_tokens > 0);
        assert!(whole.timings.total >= whole.timings.decode);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_fill_in_the_middle_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plain.gguf");
    TinyModel::llama().without_fim().write(&path).unwrap();
    let service = Service::new(ServiceOptions::new(ModelRef::Path(path))).unwrap();
    let error = service.predict(Request::complete("a", "b")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("fill-in-the-middle"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_there_and_back() {
    let Fixture { service, _folder } = tiny();
    let text = "def f(정):\n    return 1\n";
    let options = EncodeOptions { add_bos: false, parse_special: true };
    let tokens = service.tokenize(text.to_owned(), options, None).await.unwrap();
    assert_eq!(service.detokenize(tokens, None).await.unwrap(), text);
    let error = service.detokenize(vec![u32::MAX], None).await.unwrap_err();
    assert_eq!(error.field(), Some("tokens"));
    let error = service.detokenize(vec![1; 200_001], None).await.unwrap_err();
    assert_eq!(error.field(), Some("tokens"));
    let error = service.tokenize("x".repeat(200_001), options, None).await.unwrap_err();
    assert_eq!(error.field(), Some("content"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_is_text_or_its_tokens() {
    let Fixture { service, _folder } = tiny();
    let text = |text: &str| PromptPiece::Text(text.to_owned());
    let ids = async |text: &str, parse_special| {
        let options = EncodeOptions { add_bos: false, parse_special };
        service.tokenize(text.to_owned(), options, None).await.unwrap()
    };
    let tokens = async |text| PromptPiece::Tokens(ids(text, true).await);
    // What an editor sends that applies the template itself.
    let whole = "<|fim_prefix|>def f(x):<|fim_suffix|>\n<|fim_middle|>";
    let written = service.predict(Request::raw(whole)).await.unwrap();
    assert_eq!(written.usage.prompt_tokens, ids(whole, true).await.len());
    assert!(written.usage.prompt_tokens < ids(whole, false).await.len());
    let split = vec![
        text("<|fim_prefix|>"),
        tokens("def f(x):").await,
        tokens("<|fim_suffix|>").await,
        text("\n<|fim_middle|>"),
    ];
    for pieces in [vec![tokens(whole).await], split] {
        let answer = service.predict(Request::pieces(pieces)).await.unwrap();
        assert_eq!(answer.text, written.text);
        assert_eq!(answer.usage.prompt_tokens, written.usage.prompt_tokens);
        assert_eq!(answer.cache.outcome, CacheOutcome::Miss);
    }
    let unknown = Request::pieces(vec![text("x"), PromptPiece::Tokens(vec![1, 1_000_000])]);
    let error = service.predict(unknown).await.unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::Invalid, Some("prompt")));
    assert!(error.to_string().contains("1000000 is not a token"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_begins_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("begins.gguf");
    let mut writer = TinyModel::llama().writer();
    writer.replace("tokenizer.ggml.add_bos_token", WriterValue::Bool(true));
    std::fs::write(&path, writer.to_bytes()).unwrap();
    let service = Service::new(ServiceOptions::new(ModelRef::Path(path))).unwrap();
    let mut answers = Vec::new();
    for prompt in ["x = ", "<|endoftext|>x = ", "<|endoftext|><|endoftext|>x = "] {
        let answer = service.predict(Request::raw(prompt)).await.unwrap();
        answers.push((answer.usage.prompt_tokens, answer.text));
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[2].0, answers[1].0 + 1);
}

#[test]
fn making_a_service_touches_nothing() {
    let began = Instant::now();
    let service = Service::new(ServiceOptions::new("qwen2.5-coder-0.5b".parse().unwrap())).unwrap();
    assert!(began.elapsed() < Duration::from_millis(100));
    assert_eq!(service.model().state(), LoadState::Unloaded);
    assert!(service.stats().engine.is_none());
}

/// A completion whose answer ends by itself, late in its text.
async fn completion(service: &Service) -> (Request, String) {
    let mut request = Request::complete("def mean(values):\n    ", "\n");
    request.max_tokens = 24;
    request.cache.no_store = true;
    let long = service.predict(request.clone()).await.unwrap();
    let middle: Vec<char> = long.text.chars().collect();
    let stop: String = middle[middle.len() / 2..].iter().take(3).collect();
    assert!(!stop.is_empty(), "the model wrote {:?}", long.text);
    request.stop = vec![stop];
    request.cache.no_store = false;
    let whole = service.predict(request.clone()).await.unwrap();
    assert!(whole.text.chars().count() > 2, "the model wrote {:?}", whole.text);
    (request, whole.text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_answers_while_it_is_typed() {
    let Fixture { service, _folder } = tiny();
    let (request, whole) = completion(&service).await;
    let generated = engine(&service).generated_tokens;
    let chars: Vec<char> = whole.chars().collect();
    for typed in 1..chars.len() {
        let mut request = request.clone();
        let Task::Complete { prefix, .. } = &mut request.task else { panic!("a completion") };
        prefix.extend(&chars[..typed]);
        let stream = service.predict_stream(request).await.unwrap();
        assert!(stream.cache().typed_through && stream.cache().outcome == CacheOutcome::HitL1);
        let (text, answer) = read(stream).await;
        let rest: String = chars[typed..].iter().collect();
        assert_eq!((text.as_str(), answer.code.as_deref()), (rest.as_str(), Some(rest.as_str())));
    }
    assert_eq!(engine(&service).generated_tokens, generated, "nothing was generated");
    assert_eq!(service.stats().typed.unwrap().hits as usize, chars.len() - 1);

    // Another suffix, another namespace, other text: other answers.
    let asked = async |change: fn(&mut Request)| {
        let mut request = request.clone();
        let Task::Complete { prefix, .. } = &mut request.task else { panic!("a completion") };
        prefix.push(chars[0]);
        change(&mut request);
        service.predict(request).await.unwrap().cache
    };
    assert!(asked(|_| {}).await.typed_through);
    let others: [fn(&mut Request); 4] = [
        |request| request.cache.namespace = "another".to_owned(),
        |request| request.cache.no_cache = true,
        |request| request.max_tokens += 1,
        |request| {
            if let Task::Complete { suffix, .. } = &mut request.task {
                suffix.push('#');
            }
        },
    ];
    for other in others {
        assert!(!asked(other).await.typed_through);
    }
}

/// A service over a file of answers. The tasks of a service that was dropped may hold the file a little longer.
async fn over_disk(path: &std::path::Path) -> Fixture {
    let disk = loop {
        let disk = hapa_service::DiskOptions::new(path).build().unwrap();
        if !path.exists() {
            break disk;
        }
        disk.open().unwrap();
        if !disk.is_read_only() {
            break disk;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    fixture(|options| options.tiers.push(std::sync::Arc::new(disk)))
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_outlive_the_service_on_disk() {
    let answers = tempfile::tempdir().unwrap();
    let path = answers.path().join("answers.redb");
    let Fixture { service, _folder } = over_disk(&path).await;
    assert!(!path.exists(), "making a service touches nothing");
    let request = ending(&service).await;
    let first = service.predict(request.clone()).await.unwrap();
    assert_eq!(first.cache.outcome, CacheOutcome::Miss);
    service.flush_cache().await;
    drop(service);

    let Fixture { service, _folder } = over_disk(&path).await;
    let streamed = service.predict_stream(request.clone()).await.unwrap();
    assert_eq!(streamed.cache().outcome, CacheOutcome::HitL2);
    let (text, second) = read(streamed).await;
    assert_eq!((&text, &second.text), (&first.text, &first.text));
    assert_eq!(
        (second.finish, second.usage, &second.code),
        (first.finish, Usage { kv_pages: 0, kv_bytes: 0, ..first.usage }, &first.code)
    );
    assert_eq!(second.cache.key, first.cache.key);
    assert_eq!(second.timings.decode, Duration::ZERO);
    let third = service.predict(request.clone()).await.unwrap();
    assert_eq!(third.cache.outcome, CacheOutcome::HitL1, "promoted");
    assert_eq!(engine(&service).generated_tokens, 0, "nothing was generated");
    let stats = service.stats();
    assert_eq!((stats.tiers[0].name, stats.tiers[0].hits), ("disk", 1));
    assert!(stats.tiers[0].saved > Duration::ZERO, "what the generation took");

    assert!(service.clear_cache().await >= 1);
    assert_eq!(service.predict(request).await.unwrap().cache.outcome, CacheOutcome::Miss);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_can_be_warm() {
    let answers = tempfile::tempdir().unwrap();
    let path = answers.path().join("answers.redb");
    let Fixture { service, _folder } = over_disk(&path).await;
    let request = ending(&service).await;
    service.predict(request.clone()).await.unwrap();
    service.flush_cache().await;
    drop(service);
    let Fixture { service, _folder } = over_disk(&path).await;
    assert!(service.warm_cache(100).await >= 1);
    assert_eq!(service.predict(request).await.unwrap().cache.outcome, CacheOutcome::HitL1);
}
