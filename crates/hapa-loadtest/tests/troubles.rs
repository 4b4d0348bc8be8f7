//! Everything that can go wrong is counted for what it is, and what went well is kept.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use std::time::Duration;

use common::{Fake, Received, Step, chunk, delta, done, respond, stream_head, streamed};
use hapa_loadtest::{
    Api, Ask, Class, Control, Ended, Limit, Load, LoadError, Mix, Plan, Prompt, Report, Settings,
    Target, TargetOptions, Workload, WorkloadSource, run,
};
use serde_json::Value;

fn options(url: String, api: Api) -> TargetOptions {
    TargetOptions { url, api, ..TargetOptions::default() }
}

fn plan(options: TargetOptions, load: Load, limit: Limit) -> Plan {
    let prompt = Prompt::new(Ask::Text("say a".to_owned()), 8);
    Plan {
        target: Target::new(options).unwrap(),
        workload: Workload::new(WorkloadSource::One(prompt), Mix::default(), 8).unwrap(),
        load,
        limit,
        warmup: Limit::default(),
        cold: false,
        settings: Settings {
            timeout: Duration::from_secs(60),
            give_up_after: 0,
            ..Settings::default()
        },
    }
}

fn zero() -> Duration {
    Duration::ZERO
}

fn good() -> Vec<Step> {
    streamed("", zero(), zero(), 2)
}

fn count(report: &Report, class: Class, reason: &str) -> u64 {
    let found = report.troubles.iter().find(|t| t.class == class && t.reason == reason);
    found.map_or(0, |trouble| trouble.count)
}

#[test]
fn each_kind_of_trouble_is_told_from_the_others() {
    let kinds: [fn() -> Vec<Step>; 12] = [
        good,
        || vec![respond(429, "application/json", "retry-after: 1\r\n", "{}")],
        || vec![respond(503, "application/json", "", "{}")],
        || vec![respond(500, "text/plain", "", "boom")],
        || vec![respond(200, "text/html", "", "<html><body>login</body></html>")],
        || vec![respond(200, "application/json", "", "{\"half\":")],
        || vec![stream_head(""), delta("a"), chunk("data: {\"choices\":[{\"del"), Step::Close],
        || vec![stream_head(""), delta("a"), Step::Close],
        || vec![stream_head(""), delta("a"), Step::Send(b"0\r\n\r\n".to_vec())],
        || {
            let half = chunk("data: {\"choices\":[{\"index\"");
            vec![stream_head(""), delta("a"), half, Step::Send(b"0\r\n\r\n".to_vec())]
        },
        || {
            vec![
                stream_head(""),
                chunk("data: {\"error\":{\"message\":\"no memory\"}}\n\n"),
                Step::Close,
            ]
        },
        || vec![Step::Close],
    ];
    let fake = Fake::start(move |request: &Received| kinds[request.number as usize % 12]());
    let plan = plan(options(fake.url(), Api::OpenaiChat), Load::closed(3), Limit::requests(60));
    let report = run(&plan, &Control::new()).unwrap();
    let requests = report.requests;
    assert_eq!(requests.total, 60, "{}", report.table());
    assert_eq!(
        (requests.succeeded, requests.refused, requests.incomplete, requests.failed),
        (5, 10, 20, 25),
        "{}",
        report.table()
    );
    for (class, reason, expected) in [
        (Class::Refused, "status 429", 5),
        (Class::Refused, "status 503", 5),
        (Class::Error, "status 500", 5),
        (Class::Error, "not an answer", 10),
        (Class::Incomplete, "closed midway", 10),
        (Class::Incomplete, "no end of the answer", 5),
        (Class::Incomplete, "half an event", 5),
        (Class::Error, "error told in the answer", 5),
        (Class::Error, "closed before an answer", 5),
    ] {
        assert_eq!(count(&report, class, reason), expected, "{reason}: {}", report.table());
    }
    let example = |reason| {
        report.troubles.iter().find(|trouble| trouble.reason == reason).unwrap().example.clone()
    };
    assert_eq!(example("status 500"), "boom");
    assert_eq!(example("error told in the answer"), "no memory");
    assert!((requests.success_rate - 5.0 / 60.0).abs() < 1e-12);
    assert_eq!(report.refusal.unwrap().count, 10);
    assert_eq!(report.latency.end_to_end.unwrap().count, 5);
    assert!(!report.is_clean());
}

#[test]
fn a_stream_may_break_into_any_pieces() {
    let fake = Fake::start(|_| {
        let mut body = Vec::new();
        for step in good() {
            if let Step::Send(bytes) = step {
                body.extend_from_slice(&bytes);
            }
        }
        let mut steps = Vec::new();
        for piece in body.chunks(7) {
            steps.extend([Step::Send(piece.to_vec()), Step::Wait(Duration::from_millis(1))]);
        }
        steps
    });
    let plan = plan(options(fake.url(), Api::OpenaiChat), Load::closed(2), Limit::requests(6));
    let report = run(&plan, &Control::new()).unwrap();
    assert_eq!((report.requests.succeeded, report.throughput.output_tokens), (6, 12));
}

#[test]
fn a_wrong_key_ends_the_run_at_once() {
    let fake = Fake::start(|request: &Received| {
        let right = request.headers.get("authorization").is_some_and(|key| key == "Bearer right");
        if right {
            return good();
        }
        let body = r#"{"error":{"message":"invalid key","code":"UNAUTHORIZED"}}"#;
        vec![respond(401, "application/json", "", body)]
    });
    let attempt = |key: &str| {
        let options =
            TargetOptions { key: Some(key.to_owned()), ..options(fake.url(), Api::OpenaiChat) };
        let mut plan = plan(options, Load::closed(4), Limit::requests(20));
        plan.cold = true;
        run(&plan, &Control::new()).unwrap()
    };
    let report = attempt("wrong");
    assert_eq!(report.ended, Ended::FirstRequestFailed);
    assert_eq!((report.requests.total, report.requests.failed), (1, 1));
    assert!(report.table().contains("1 x status 401 (error)"), "{}", report.table());
    assert!(report.table().contains("invalid key") && !report.is_clean());
    assert_eq!(fake.received().len(), 1);
    assert!(attempt("right").is_clean());
}

#[test]
fn nobody_listens() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let mut plan = plan(options(url, Api::Hapa), Load::closed(4), Limit::requests(20));
    plan.cold = true;
    let report = run(&plan, &Control::new()).unwrap();
    assert_eq!(report.ended, Ended::FirstRequestFailed);
    assert_eq!(count(&report, Class::Error, "connect"), 1);
    plan.cold = false;
    plan.settings.give_up_after = 10;
    let report = run(&plan, &Control::new()).unwrap();
    assert_eq!(report.ended, Ended::TooManyFailures);
    assert!(count(&report, Class::Error, "connect") >= 10);
}

#[test]
fn a_server_that_dies_leaves_what_it_did() {
    let fake = Fake::start(|request: &Received| match request.number {
        0..30 => good(),
        30 => vec![stream_head(""), delta("a"), Step::Die],
        _ => vec![Step::Wait(Duration::from_secs(600))],
    });
    let mut plan =
        plan(options(fake.url(), Api::OpenaiChat), Load::closed(3), Limit::requests(500));
    plan.settings.give_up_after = 12;
    let report = run(&plan, &Control::new()).unwrap();
    assert_eq!(report.ended, Ended::TooManyFailures);
    // The answers of the two others may have been under way when it died.
    let succeeded = report.requests.succeeded;
    assert!((28..=30).contains(&succeeded), "{}", report.table());
    let midway = count(&report, Class::Incomplete, "closed midway");
    assert_eq!(midway, 31 - succeeded, "{}", report.table());
    // A client whose connection was taken, but not answered, before the death sees it reset.
    let refused = count(&report, Class::Error, "connect");
    let reset = count(&report, Class::Error, "closed before an answer");
    assert!(refused >= 1 && refused + reset >= 9, "{}", report.table());
    assert_eq!(report.throughput.output_tokens, 2 * succeeded);
    assert!(!report.is_clean());
}

#[test]
fn a_connection_that_is_closed_without_a_word_is_replaced() {
    // llama-server closes the connection after every stream.
    let fake = Fake::start(|_| {
        let mut steps = good();
        steps.extend([Step::Wait(Duration::from_millis(2)), Step::Close]);
        steps
    });
    let plan = plan(options(fake.url(), Api::OpenaiChat), Load::closed(2), Limit::requests(40));
    let report = run(&plan, &Control::new()).unwrap();
    assert_eq!(report.requests.succeeded, 40, "{}", report.table());
    assert!(report.is_clean());
}

#[test]
fn a_server_that_answers_nobody_is_not_asked_for_ever() {
    let fake = Fake::start(|request: &Received| match request.number {
        0..4 => good(),
        _ => vec![Step::Close],
    });
    let mut plan =
        plan(options(fake.url(), Api::OpenaiChat), Load::closed(1), Limit::requests(100));
    plan.settings.give_up_after = 5;
    let report = run(&plan, &Control::new()).unwrap();
    assert_eq!(report.requests.succeeded, 4, "{}", report.table());
    assert_eq!(report.ended, Ended::TooManyFailures);
    assert_eq!(count(&report, Class::Error, "closed before an answer"), 5);
    // The first of them went out twice.
    assert_eq!(fake.received().len(), 10);
}

#[test]
fn what_never_comes_is_not_waited_for() {
    let fake = Fake::start(|request: &Received| match request.number % 3 {
        0 => good(),
        1 => vec![Step::Wait(Duration::from_secs(600))],
        _ => vec![stream_head(""), delta("a"), Step::Wait(Duration::from_secs(600))],
    });
    let mut plan = plan(options(fake.url(), Api::OpenaiChat), Load::closed(6), Limit::requests(9));
    plan.settings.timeout = Duration::from_secs(2);
    let report = run(&plan, &Control::new()).unwrap();
    assert_eq!(report.requests.succeeded, 3, "{}", report.table());
    assert_eq!(count(&report, Class::Error, "timeout"), 3);
    assert_eq!(count(&report, Class::Incomplete, "timeout midway"), 3);
}

#[test]
fn a_connection_that_is_closed_politely_is_replaced() {
    let fake = Fake::start(|_| {
        let body = r#"{"choices":[{"message":{"content":"a"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
        vec![respond(200, "application/json", "connection: close\r\n", body), Step::Close]
    });
    let options = TargetOptions { whole: true, ..options(fake.url(), Api::OpenaiChat) };
    let report =
        run(&plan(options, Load::closed(2), Limit::requests(10)), &Control::new()).unwrap();
    assert_eq!((report.requests.succeeded, report.generator.connections), (10, 10));
    assert!(report.latency.time_to_first_token.is_none());
}

#[test]
fn each_dialect_is_asked_as_it_wants() {
    let answers = |request: &Received| {
        let events: &[&str] = if request.line.contains("/api/v1/") {
            &[
                r#"{"type":"delta","text":"a","code":"a"}"#,
                r#"{"type":"done","usage":{"prompt_tokens":2,"completion_tokens":1}}"#,
            ]
        } else if request.line.contains("/v1/") {
            let usage = r#"{"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":1}}"#;
            &[r#"{"choices":[{"text":"a"}]}"#, usage, "[DONE]"]
        } else {
            &[
                r#"{"content":"a","stop":false}"#,
                r#"{"content":"","stop":true,"tokens_evaluated":2,"tokens_predicted":1}"#,
            ]
        };
        let mut steps = vec![stream_head("")];
        steps.extend(events.iter().map(|event| chunk(&format!("data: {event}\n\n"))));
        steps.push(Step::Send(b"0\r\n\r\n".to_vec()));
        steps
    };
    let fake = Fake::start(answers);
    let mut lines = Vec::new();
    for (name, api) in Api::ALL.into_iter().filter(|(_, api)| *api != Api::Plain) {
        assert_eq!(name.parse::<Api>().unwrap(), api);
        let options = TargetOptions { model: Some("m".to_owned()), ..options(fake.url(), api) };
        let report =
            run(&plan(options, Load::closed(1), Limit::requests(2)), &Control::new()).unwrap();
        assert_eq!(report.requests.succeeded, 2, "{name}: {}", report.table());
        assert_eq!(report.throughput.uncounted_answers, 0, "{name}");
        let received = fake.received();
        let body: Value = serde_json::from_str(&received.last().unwrap().body).unwrap();
        assert_eq!(body["stream"], true);
        let asked = ["user_question", "prefix", "messages", "prompt", "input_prefix"];
        let fields: Vec<&str> = asked.into_iter().filter(|field| !body[*field].is_null()).collect();
        lines.push(format!("{} {}", received.last().unwrap().line, fields.join(" ")));
    }
    assert_eq!(
        lines,
        [
            "POST /api/v1/code/generate HTTP/1.1 user_question",
            "POST /api/v1/code/complete HTTP/1.1 prefix",
            "POST /v1/chat/completions HTTP/1.1 messages",
            "POST /v1/completions HTTP/1.1 prompt",
            "POST /completion HTTP/1.1 prompt",
            "POST /infill HTTP/1.1 input_prefix",
        ]
    );
}

#[test]
fn answers_without_a_count_of_tokens_say_so() {
    let fake = Fake::start(|_| {
        let mut steps = vec![stream_head(""), delta("a"), delta("b"), delta("c")];
        steps.extend(done(0, 0).split_off(1));
        steps
    });
    let plan = plan(options(fake.url(), Api::OpenaiChat), Load::closed(1), Limit::requests(2));
    let report = run(&plan, &Control::new()).unwrap();
    assert_eq!((report.throughput.output_tokens, report.throughput.uncounted_answers), (6, 2));
    assert!(report.table().contains("counted no tokens of 2 answers"), "{}", report.table());
}

#[test]
fn a_run_without_end_or_meaning_is_refused() {
    let fake = Fake::start(|_| good());
    let options = || options(fake.url(), Api::OpenaiChat);
    let refused = |plan: &Plan| run(plan, &Control::new()).unwrap_err();
    let endless = plan(options(), Load::closed(1), Limit::default());
    assert!(matches!(refused(&endless), LoadError::BadOption { option: "requests", .. }));
    let nobody = plan(options(), Load::closed(0), Limit::requests(1));
    assert!(matches!(refused(&nobody), LoadError::BadOption { option: "concurrency", .. }));
    assert!("telepathy".parse::<Api>().unwrap_err().to_string().contains("openai-chat"));
}
