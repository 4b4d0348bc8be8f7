//! More than the machine can answer: bursts, clients that leave, deadlines, tenants that ask for much.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::{Reply, TestServer, start, start_with, until};
use futures_util::future::join_all;
use hapa_model::GenerateRequest;
use hapa_model::testing::real_model;
use hapa_server::{KeyFile, NewKey, Scope};
use hapa_service::{EngineStats, ModelRef};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

const JSON: (&str, &str) = ("content-type", "application/json");

fn engine(server: &TestServer) -> EngineStats {
    server.service.stats().engine.expect("a model is loaded")
}

/// Both ends of a thousand connections are this process's, and the usual limit of open files is 1,024.
fn raise_open_files() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        // Where that is not allowed the connections say so.
        let _ = setrlimit(Resource::Nofile, raised);
    }
}

/// A server with a real small model that is loaded.
async fn real(queue_limit: usize) -> TestServer {
    raise_open_files();
    let model = tokio::task::spawn_blocking(|| real_model("smollm2-135m")).await.unwrap().unwrap();
    let server = start_with(
        |_| {},
        |options| {
            options.model = ModelRef::Path(model.path);
            options.lazy.load.threads = 0;
            options.lazy.load.queue_limit = queue_limit;
            // What the prefix cache keeps is soon at its most, and then no more than before.
            options.lazy.load.kv_budget_bytes = Some(64 << 20);
        },
    )
    .await;
    drop(server.service.load().await.unwrap());
    server
}

async fn nothing_is_left(server: &TestServer) {
    until("nothing runs or waits", || {
        let (stats, engine) = (server.service.stats(), engine(server));
        (engine.running, engine.waiting, engine.kv.held_pages) == (0, 0, 0)
            && (stats.admission.requests, stats.admission.tokens) == (0, 0)
            && stats.flights.in_flight == 0
    })
    .await;
}

/// Resident memory of this process, the server's.
async fn resident_bytes(server: &TestServer) -> u64 {
    let stats = server.get("/stats").await.json();
    stats["system_info"]["process"]["resident_bytes"].as_u64().unwrap_or(0)
}

async fn ask(server: &TestServer, number: usize) -> (Reply, Duration) {
    let body = json!({ "prompt": format!("def function_{number}("), "max_tokens": 8 }).to_string();
    let mut stream = server.request("POST", "/v1/completions", &[JSON], body.as_bytes()).await;
    let sent = Instant::now();
    let mut raw = Vec::new();
    if let Err(error) = stream.read_to_end(&mut raw).await {
        panic!("request {number} after {:?} and {} bytes: {error}", sent.elapsed(), raw.len());
    }
    (Reply::parse(&raw), sent.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_is_answered_or_refused_and_leaves_nothing_behind() {
    let server = real(64).await;
    // What a burst needs once (threads, buffers, pages of the KV cache) is no leak: the second one must need no more.
    let mut resident = Vec::new();
    for round in 0..3 {
        let replies = join_all((0..1_000).map(|number| ask(&server, round * 1_000 + number))).await;
        let mut by_status: BTreeMap<u16, usize> = BTreeMap::new();
        let mut slowest_refusal = Duration::ZERO;
        for (reply, took) in &replies {
            *by_status.entry(reply.status).or_default() += 1;
            match reply.status {
                200 => {
                    let usage = &reply.json()["usage"];
                    assert!(usage["completion_tokens"].as_u64().is_some_and(|tokens| tokens <= 8));
                }
                503 => {
                    assert_eq!(reply.json()["error"]["code"], "overloaded");
                    let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
                    assert!((1..=120).contains(&wait), "{wait}");
                    slowest_refusal = slowest_refusal.max(*took);
                }
                other => panic!("{other}: {}", reply.text()),
            }
        }
        // What the engine takes at once and what may wait, at least: more when some were answered meanwhile.
        assert!(by_status[&200] >= 32 + 64, "{by_status:?}");
        nothing_is_left(&server).await;
        let stats = server.service.stats();
        assert_eq!(
            stats.admission.refused_full as usize,
            by_status.get(&503).map_or(0, |n| *n)
                + resident.iter().map(|&(_, refused)| refused).sum::<usize>()
        );
        println!("{by_status:?}, slowest refusal {slowest_refusal:?}");
        resident.push((resident_bytes(&server).await, by_status.get(&503).copied().unwrap_or(0)));
    }
    println!("resident bytes after each round: {resident:?}");
    let (first, last) = (resident[0].0, resident[2].0);
    assert!(last <= first + (32 << 20), "{resident:?}");
    let metrics = server.get("/metrics").await;
    assert!(
        metrics.text().contains("hapa_rejected_total{reason=\"overloaded\"}"),
        "refusals are counted"
    );
    assert_eq!(ask(&server, 0).await.0.status, 200, "and the next one is answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_that_leave_take_their_work_along() {
    let server = real(2_000).await;
    let leave = |number: usize| {
        let server = &server;
        async move {
            // Spread over queue, prefill, decode and the end; streams and whole answers.
            let filler = "x = 1\n".repeat(number % 40);
            let body = json!({
                "prompt": format!("{filler}def function_{number}("),
                "max_tokens": 1 + number % 48,
                "stream": number.is_multiple_of(2),
            });
            let body = body.to_string();
            let mut stream =
                server.request("POST", "/v1/completions", &[JSON], body.as_bytes()).await;
            let patience = Duration::from_millis((number as u64 * 7_919) % 3_000);
            let _ = tokio::time::timeout(patience, stream.read_to_end(&mut Vec::new())).await;
        }
    };
    join_all((0..1_000).map(leave)).await;
    nothing_is_left(&server).await;
    let stats = engine(&server);
    assert!(stats.cancelled_requests > 0, "{stats:?}");
    println!("cancelled {}, finished {}", stats.cancelled_requests, stats.finished_requests);
    assert_eq!(ask(&server, 0).await.0.status, 200);
}

/// A server whose engine runs one request, which is taken.
async fn occupied() -> (TestServer, hapa_model::Generation) {
    occupied_with(|_| {}).await
}

async fn occupied_with(
    options: impl FnOnce(&mut hapa_server::ServerOptions),
) -> (TestServer, hapa_model::Generation) {
    let server = start_with(options, |options| {
        options.lazy.load.max_sequences = 1;
        options.lazy.load.queue_limit = 64;
        // Of an answer that nobody reads the engine writes two events, and holds its place.
        options.lazy.load.stream_events = 2;
    })
    .await;
    let lease = server.service.load().await.unwrap();
    let prompt = lease.encode("occupied").unwrap();
    let generation = lease.generate(GenerateRequest::new(prompt, 40)).unwrap();
    until("it runs", || engine(&server).running == 1).await;
    (server, generation)
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_have_the_shape_of_the_api_that_was_asked() {
    let (server, occupied) = occupied().await;
    let post = async |path: &str, timeout: &str, body: &Value| {
        let headers = [JSON, ("x-request-timeout", timeout)];
        server.send("POST", path, &headers, body.to_string().as_bytes()).await
    };
    // A time that is shorter than the outlook is refused at once: on a slow machine it takes a longer one to wait in vain.
    let mut passed = 0;
    let mut late = async |path: &str, body: &Value| {
        let mut seconds = 0.1;
        loop {
            let reply = post(path, &seconds.to_string(), body).await;
            passed += reply.text().to_lowercase().matches("deadline passed before").count();
            if !reply.text().to_lowercase().contains("overloaded") {
                return reply;
            }
            seconds *= 2.0;
        }
    };
    let question = json!({ "user_question": "x" });
    let chat = json!({ "messages": [{ "role": "user", "content": "x" }], "max_tokens": 8 });
    let batch = json!({ "requests": [{ "user_question": "a" }, { "user_question": "b" }] });

    let reply = late("/api/v1/code/generate", &question).await;
    assert_eq!((reply.status, &reply.json()["error_code"]), (504, &json!("DEADLINE_EXCEEDED")));
    let reply = late("/v1/chat/completions", &chat).await;
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (504, &json!("deadline_exceeded")));
    let reply = late("/v1/messages", &chat).await;
    assert_eq!((reply.status, &reply.json()["error"]["type"]), (504, &json!("timeout_error")));
    let reply = late("/api/v1/code/generate/batch", &batch).await.json();
    assert_eq!(
        (&reply["failed"], &reply["results"][1]["error_code"]),
        (&json!(2), &json!("DEADLINE_EXCEEDED"))
    );
    until("none of them waits", || engine(&server).waiting == 0).await;

    for (path, body, status) in [
        ("/api/v1/code/generate", &question, 422),
        ("/api/v1/code/generate/batch", &batch, 422),
        ("/v1/chat/completions", &chat, 400),
        ("/v1/messages", &chat, 400),
    ] {
        let reply = post(path, "soon", body).await;
        assert_eq!(reply.status, status, "{path}");
        assert!(reply.text().contains("x-request-timeout"), "{}", reply.text());
    }
    drop(occupied);
    assert_eq!(post("/api/v1/code/generate", "3600", &question).await.status, 200);
    nothing_is_left(&server).await;
    let stats = server.get("/stats").await.json();
    assert_eq!(stats["performance_metrics"]["requests"]["deadline_passed"], passed);
    assert!(
        server.get("/metrics").await.text().contains("hapa_rejected_total{reason=\"deadline\"}")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_has_a_longest_time_of_its_own() {
    let mut time = Duration::from_millis(100);
    loop {
        let (server, occupied) =
            occupied_with(|options| options.request_timeout = Some(time)).await;
        let late = server.post("/api/v1/code/generate", &json!({ "user_question": "x" })).await;
        drop(occupied);
        nothing_is_left(&server).await;
        match late.status {
            504 => break,
            // On a slow machine it takes longer to wait in vain.
            503 => time *= 2,
            other => panic!("{other}: {}", late.text()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_has_begun_ends_with_the_deadline_as_an_event() {
    let server = start().await;
    drop(server.service.load().await.unwrap());
    // However fast the machine is, some time is long enough for the beginning of the answer and too short for all of it.
    let mut seconds = 0.004;
    let mut tries = 0;
    let events = loop {
        tries += 1;
        assert!(tries < 200, "no deadline fell into a stream; the last one was {seconds} s");
        let body = json!({ "prompt": format!("{tries}"), "max_tokens": 450, "stream": true });
        let timeout = format!("{seconds:.9}");
        let headers = [JSON, ("x-request-timeout", timeout.as_str())];
        let reply =
            server.send("POST", "/v1/completions", &headers, body.to_string().as_bytes()).await;
        match reply.status {
            // Before any text was written, or because none would be.
            504 | 503 => seconds *= 2.0,
            200 => {
                let events = reply.events();
                if events.iter().any(|event| event.contains("deadline_exceeded")) {
                    break events;
                }
                seconds *= 0.7;
            }
            other => panic!("{other}: {}", reply.text()),
        }
    };
    let [text, .., error, end] = events.as_slice() else { panic!("{events:?}") };
    assert!(text.contains("\"text\":"), "{text}");
    let error: Value = serde_json::from_str(error).unwrap();
    assert_eq!(error["error"]["code"], "deadline_exceeded");
    assert_eq!(end, "[DONE]");
    nothing_is_left(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_asks_for_much_leaves_places_for_another() {
    let folder = tempfile::tempdir().unwrap();
    let file = KeyFile::at(folder.path().join("keys.json"));
    let key = |name: &str| {
        let new = NewKey::new(name, [Scope::CodeGeneration]);
        format!("Bearer {}", file.create(new).unwrap().0.reveal())
    };
    let (greedy, modest) = (key("greedy"), key("modest"));
    let (server, occupied) = occupied_with(|options| options.keys = Some(file.clone())).await;
    let server = std::sync::Arc::new(server);
    let ask = |bearer: &str, prompt: String| {
        let (server, bearer) = (server.clone(), bearer.to_owned());
        tokio::spawn(async move {
            let body = json!({ "prompt": prompt, "max_tokens": 8 }).to_string();
            let headers = [JSON, ("authorization", bearer.as_str())];
            server.send("POST", "/v1/completions", &headers, body.as_bytes()).await
        })
    };
    let mut modest_ones = vec![ask(&modest, "first".to_owned())];
    until("it waits", || engine(&server).waiting == 1).await;
    // Of 65 places one is the modest one's; of the rest the greedy one gets three for each that stays free.
    let greedy_ones: Vec<_> = (0..65).map(|number| ask(&greedy, format!("{number}"))).collect();
    until("the others are refused", || {
        (engine(&server).waiting, server.service.stats().admission.refused_full) == (49, 17)
    })
    .await;
    modest_ones.push(ask(&modest, "second".to_owned()));
    until("there is a place for it", || engine(&server).waiting == 50).await;
    drop(occupied);
    let mut by_status: BTreeMap<u16, usize> = BTreeMap::new();
    for reply in join_all(greedy_ones).await {
        let reply = reply.unwrap();
        assert_eq!(reply.header("retry-after").is_some(), reply.status == 503, "{reply:?}");
        *by_status.entry(reply.status).or_default() += 1;
    }
    assert_eq!(by_status, BTreeMap::from([(200, 48), (503, 17)]));
    for reply in join_all(modest_ones).await {
        assert_eq!(reply.unwrap().status, 200);
    }
    nothing_is_left(&server).await;
}
