//! The pipeline with a real small model.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

use hapa_model::testing::real_model;
use hapa_service::{
    AnswerEvent, CacheOutcome, ChatMessage, CodeStream, ModelRef, Request, Role, Service,
    ServiceOptions,
};

async fn service() -> Service {
    let model = tokio::task::spawn_blocking(|| real_model("smollm2-135m")).await.unwrap().unwrap();
    Service::new(ServiceOptions::new(ModelRef::Path(model.path))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_model_writes_python_while_one_watches() {
    let service = service().await;
    let question = "Write a Python function that returns the n-th Fibonacci number iteratively.";
    let mut request = Request::chat(vec![ChatMessage::new(Role::User, question)]);
    request.max_tokens = 40;
    let mut stream = service.predict_stream(request.clone()).await.unwrap();
    let (mut text, mut code, mut pieces) = (String::new(), String::new(), 0);
    let mut extractor = CodeStream::new();
    let answer = loop {
        match stream.next().await.unwrap().unwrap() {
            AnswerEvent::Text(piece) => {
                pieces += 1;
                code.push_str(&extractor.push(&piece));
                text.push_str(&piece);
            }
            AnswerEvent::Logprobs(_) => panic!("not asked for"),
            AnswerEvent::Finished(answer) => break answer,
        }
    };
    code.push_str(&extractor.finish());
    assert!(code.starts_with("def "), "{text}");
    assert_eq!(
        (answer.text.as_str(), answer.code.as_deref()),
        (text.as_str(), Some(code.as_str()))
    );
    assert!(pieces > 10, "the answer came in {pieces} pieces");
    assert_eq!(answer.usage.generated_tokens, 40);
    assert!(answer.timings.time_to_first_token <= answer.timings.total);

    // The same question, ended at a text that is known to come: kept, and then found.
    request.stop = vec!["\n".to_owned() + code.lines().nth(1).unwrap()];
    let first = service.predict(request.clone()).await.unwrap();
    let second = service.predict(request).await.unwrap();
    assert_eq!(
        (first.cache.outcome, second.cache.outcome),
        (CacheOutcome::Miss, CacheOutcome::HitL1)
    );
    assert_eq!(first.text, second.text);
    assert!(text.starts_with(&first.text) && first.text.len() < text.len());
    assert!(second.timings.total < first.timings.total);
}
