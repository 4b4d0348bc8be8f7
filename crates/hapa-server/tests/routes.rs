//! Every route over real HTTP. Long because each has its tests here.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod common;

use common::{Reply, TestServer, start, start_with};
use serde_json::{Value, json};

fn ok(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("x-request-id").map(str::len), Some(32));
    assert!(
        reply.header("server-timing").is_some_and(|timing| timing.contains("total;dur=")),
        "{:?}",
        reply.headers
    );
    reply.json()
}

fn data(event: &str) -> Value {
    serde_json::from_str(event).unwrap_or_else(|error| panic!("{error} in {event}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn generate() {
    let server = start().await;
    let reply = server
        .post(
            "/api/v1/code/generate",
            &json!({ "user_question": "add", "code_context": "x = 1", "max_tokens": 12 }),
        )
        .await;
    let body = ok(&reply);
    assert_eq!(reply.header("x-hapa-cache"), Some("miss"));
    assert!(reply.header("server-timing").unwrap().contains("decode;dur="), "{:?}", reply.headers);
    assert_eq!((&body["status"], &body["error_message"]), (&json!("success"), &Value::Null));
    for field in ["generated_code", "explanation"] {
        assert!(body[field].is_string(), "{body}");
    }
    assert_eq!(body["usage"]["completion_tokens"], 12);
    assert_eq!(body["finish_reason"], "length");
    assert_eq!(body["cache"]["outcome"], "miss");
    for hash in ["key", "prompt_hash", "context_hash"] {
        assert_eq!(body["cache"][hash].as_str().map(str::len), Some(64), "{body}");
    }
    assert!(body["timings"]["total_seconds"].as_f64().unwrap() > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn generate_streams() {
    let server = start().await;
    let request = json!({ "user_question": "add", "max_tokens": 12, "stream": true });
    let reply = server.post("/api/v1/code/generate", &request).await;
    assert_eq!((reply.status, reply.header("x-hapa-cache")), (200, Some("miss")));
    let events: Vec<Value> = reply.events().iter().map(|event| data(event)).collect();
    let (last, deltas) = events.split_last().unwrap();
    assert!(
        !deltas.is_empty() && deltas.iter().all(|event| event["type"] == "delta"),
        "{events:?}"
    );
    assert_eq!(last["type"], "done");
    assert_eq!(
        (&last["status"], &last["usage"]["completion_tokens"]),
        (&json!("success"), &json!(12))
    );
    let code: String = deltas.iter().map(|event| event["code"].as_str().unwrap()).collect();
    assert_eq!(last["generated_code"], code, "what was streamed as code is the code");
}

#[tokio::test(flavor = "multi_thread")]
async fn batch() {
    let server = start_with(|options| options.max_batch = 3, |_| {}).await;
    let one = |question: &str| json!({ "user_question": question, "max_tokens": 3 });
    let body = ok(&server
        .post("/api/v1/code/generate/batch", &json!({ "requests": [one("a"), one(""), one("b")] }))
        .await);
    assert_eq!((&body["succeeded"], &body["failed"]), (&json!(2), &json!(1)));
    let statuses: Vec<&Value> =
        body["results"].as_array().unwrap().iter().map(|result| &result["status"]).collect();
    assert_eq!(statuses, ["success", "error", "success"]);
    assert_eq!(body["results"][1]["field"], "user_question");
    for (requests, field) in
        [(json!([]), "requests"), (json!([one("a"), one("b"), one("c"), one("d")]), "requests")]
    {
        let reply =
            server.post("/api/v1/code/generate/batch", &json!({ "requests": requests })).await;
        assert_eq!((reply.status, &reply.json()["error_details"]["field"]), (422, &json!(field)));
    }
    let reply = server
        .post(
            "/api/v1/code/generate/batch",
            &json!({ "requests": [one("a"), { "user_question": 5 }] }),
        )
        .await;
    assert_eq!(reply.json()["error_details"]["field"], "requests[1].user_question");
}

#[tokio::test(flavor = "multi_thread")]
async fn complete() {
    let server = start().await;
    let request = json!({ "prefix": "def add(a, b):\n    return ", "suffix": "\n", "max_tokens": 8, "cursor_position": { "line": 1 }, "document_id": "d" });
    let body = ok(&server.post("/api/v1/code/complete", &request).await);
    assert_eq!(
        (body["completions"].as_array().map(Vec::len), &body["status"]),
        (Some(1), &json!("success"))
    );

    let several = json!({ "prefix": "x = ", "n": 3, "max_tokens": 6 });
    let first = ok(&server.post("/api/v1/code/complete", &several).await);
    let texts = first["completions"].as_array().unwrap();
    assert!((1..=3).contains(&texts.len()));
    for (index, text) in texts.iter().enumerate() {
        assert!(!texts[..index].contains(text), "no two alike: {texts:?}");
    }
    let again = ok(&server.post("/api/v1/code/complete", &several).await);
    assert_eq!(again["completions"], first["completions"], "asking again gives the same ones");

    // Of one document's requests the newest counts: the other is cancelled and told so, unless it was answered before.
    let long = json!({
        "prefix": "x = ", "max_tokens": 400, "temperature": 1.5, "document_id": "d", "language": "text",
    });
    let mut told = false;
    for _ in 0..1_000 {
        let both = tokio::join!(
            server.post("/api/v1/code/complete", &long),
            server.post("/api/v1/code/complete", &long)
        );
        let mut statuses = [both.0.status, both.1.status];
        statuses.sort_unstable();
        if statuses == [200, 409] {
            let old = if both.0.status == 409 { both.0 } else { both.1 };
            assert_eq!(old.json()["error_code"], "SUPERSEDED");
            told = true;
            break;
        }
        assert_eq!(statuses, [200, 200]);
    }
    assert!(told, "two requests at once and none was superseded");

    let reply = server
        .post(
            "/api/v1/code/complete",
            &json!({ "prefix": "x = ", "max_tokens": 6, "stream": true }),
        )
        .await;
    let events: Vec<Value> = reply.events().iter().map(|event| data(event)).collect();
    let streamed: String = events.iter().filter_map(|event| event["text"].as_str()).collect();
    assert_eq!(events.last().unwrap()["completions"], json!([streamed]));
}

#[tokio::test(flavor = "multi_thread")]
async fn validate() {
    let server = start().await;
    let good = ok(&server.post("/api/v1/validation/validate", &json!({ "code": "x = 1\n" })).await);
    assert_eq!((&good["is_valid"], &good["issues"]), (&json!(true), &json!([])));
    let bad = ok(&server
        .post("/api/v1/validation/validate", &json!({ "code": "x = 1\ndef f(:\n  pass\n" }))
        .await);
    assert_eq!(
        (&bad["is_valid"], &bad["issues"][0]["line"], &bad["issues"][0]["severity"]),
        (&json!(false), &json!(2), &json!("error"))
    );
    let deep = ok(&server
        .post("/api/v1/validation/validate", &json!({ "code": "[".repeat(100_000) }))
        .await);
    assert_eq!(deep["is_valid"], false);
    let reply = server
        .post("/api/v1/validation/validate", &json!({ "code": "x", "language": "rust" }))
        .await;
    assert_eq!(reply.status, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn validate_several() {
    let server = start().await;
    let path = "/api/v1/validation/validate/batch";
    let snippets = json!([
        { "code": "x = 1\n", "language": "python" }, { "code": "x = (" }, { "code": "x", "language": "rust" }
    ]);
    let body = json!({ "code_snippets": snippets, "common_language": "Python", "session_id": "s" });
    let answer = ok(&server.post(path, &body).await);
    assert_eq!((&answer["succeeded"], &answer["failed"]), (&json!(2), &json!(1)));
    let results = answer["results"].as_array().unwrap();
    let valid: Vec<&Value> = results.iter().map(|result| &result["is_valid"]).collect();
    assert_eq!(valid, [&json!(true), &json!(false), &Value::Null]);
    assert_eq!(
        (&results[2]["error_code"], &results[2]["field"]),
        (&json!("VALIDATION_ERROR"), &json!("language"))
    );
    let other = json!({ "code_snippets": [{ "code": "x" }], "common_language": "rust" });
    assert_eq!(ok(&server.post(path, &other).await)["failed"], 1);
    for (body, field) in [
        (json!({ "code_snippets": [] }), "code_snippets"),
        (json!({ "code_snippets": vec![json!({ "code": "" }); 1_000] }), "code_snippets"),
        (json!({ "code_snippets": [{ "language": "python" }] }), "code_snippets[0].code"),
        (json!({}), "code_snippets"),
    ] {
        let refused = server.post(path, &body).await;
        assert_eq!(
            (refused.status, &refused.json()["error_details"]["field"]),
            (422, &json!(field))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chat_completions() {
    let server = start().await;
    let mut request = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 7 });
    let body = ok(&server.post("/v1/chat/completions", &request).await);
    assert_eq!((&body["object"], &body["model"]), (&json!("chat.completion"), &json!("tiny")));
    let choice = &body["choices"][0];
    assert_eq!(
        (&choice["message"]["role"], &choice["finish_reason"]),
        (&json!("assistant"), &json!("length"))
    );
    assert_eq!(
        (&body["usage"]["completion_tokens"], body["choices"].as_array().map(Vec::len)),
        (&json!(7), Some(1))
    );
    assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"));
    let whole = choice["message"]["content"].as_str().unwrap().to_owned();

    request["stream"] = json!(true);
    request["stream_options"] = json!({ "include_usage": true });
    let reply = server.post("/v1/chat/completions", &request).await;
    let events = reply.events();
    let (done, chunks) = events.split_last().unwrap();
    assert_eq!(done, "[DONE]");
    let chunks: Vec<Value> = chunks.iter().map(|event| data(event)).collect();
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk["object"] == "chat.completion.chunk"
                && chunk["id"] == chunks[0]["id"])
    );
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
    let (usage, chunks) = chunks.split_last().unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(7)));
    let (end, chunks) = chunks.split_last().unwrap();
    assert_eq!(
        (&end["choices"][0]["delta"], &end["choices"][0]["finish_reason"]),
        (&json!({}), &json!("length"))
    );
    let streamed: String = chunks
        .iter()
        .map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().unwrap())
        .collect();
    assert_eq!(streamed, whole);
    assert!(chunks.iter().all(|chunk| chunk["choices"][0]["finish_reason"].is_null()));

    request["stream_options"] = Value::Null;
    let events = server.post("/v1/chat/completions", &request).await.events();
    assert!(!events.iter().any(|event| event.contains("\"usage\"")), "no usage unless asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn completions() {
    let server = start().await;
    let body = ok(&server
        .post("/v1/completions", &json!({ "prompt": ["x = ", "y = "], "n": 2, "max_tokens": 4 }))
        .await);
    assert_eq!(body["object"], "text_completion");
    let indexes: Vec<&Value> =
        body["choices"].as_array().unwrap().iter().map(|choice| &choice["index"]).collect();
    assert_eq!(indexes, [&json!(0), &json!(1), &json!(2), &json!(3)]);
    assert_eq!(body["usage"]["completion_tokens"], 16);

    let filled = ok(&server
        .post(
            "/v1/completions",
            &json!({ "prompt": "def f(", "suffix": "):\n    pass\n", "max_tokens": 4 }),
        )
        .await);
    assert!(filled["choices"][0]["text"].is_string());

    // `stop` ends the text before the match, streaming too.
    let text = body["choices"][0]["text"].as_str().unwrap();
    let stop: String = text.chars().skip(text.chars().count() / 2).take(1).collect();
    let request = json!({ "prompt": "x = ", "max_tokens": 4, "stop": stop, "stream": true });
    let events = server.post("/v1/completions", &request).await.events();
    let chunks: Vec<Value> = events[..events.len() - 1].iter().map(|event| data(event)).collect();
    let streamed: String =
        chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(Some(streamed.as_str()), text.split(stop.as_str()).next());
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");

    let two = server
        .post(
            "/v1/completions",
            &json!({ "prompt": ["x = ", "y = "], "max_tokens": 4, "stream": true }),
        )
        .await
        .events();
    let ends = two.iter().filter(|event| event.contains("\"finish_reason\":\"length\"")).count();
    assert_eq!((ends, two.last().map(String::as_str)), (2, Some("[DONE]")));
}

#[tokio::test(flavor = "multi_thread")]
async fn models() {
    let server = start().await;
    let list = ok(&server.get("/v1/models").await);
    assert_eq!(
        (&list["object"], &list["data"][0]["id"], &list["data"][0]["object"]),
        (&json!("list"), &json!("tiny"), &json!("model"))
    );
    assert_eq!(ok(&server.get("/v1/models/tiny").await)["id"], "tiny");
    assert_eq!(server.get("/v1/models/other").await.status, 404);
    assert!(server.service.stats().model.is_none(), "listing loads nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn infill_and_tokens() {
    let server = start().await;
    let mut request = json!({
        "input_prefix": "def add(a, b):\n", "prompt": "    return ", "input_suffix": "\n", "n_predict": 6,
        "input_extra": [{ "filename": "a.py", "text": "x = 1\n" }], "samplers": ["top_k"], "cache_prompt": true, "t_max_predict_ms": 500
    });
    let body = ok(&server.post("/infill", &request).await);
    assert_eq!((&body["stop"], body["tokens_predicted"].as_u64()), (&json!(true), Some(6)));
    request["stream"] = json!(true);
    let events: Vec<Value> =
        server.post("/infill", &request).await.events().iter().map(|event| data(event)).collect();
    let text: String = events.iter().map(|event| event["content"].as_str().unwrap()).collect();
    assert_eq!(body["content"], text);
    assert_eq!(events.last().unwrap()["stop"], true);

    let tokens = ok(&server.post("/tokenize", &json!({ "content": "def f():" })).await);
    assert!(!tokens["tokens"].as_array().unwrap().is_empty());
    assert_eq!(ok(&server.post("/detokenize", &tokens).await)["content"], "def f():");
    let reply = server.post("/detokenize", &json!({ "tokens": [4_000_000_000u32] })).await;
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("tokens")));
}

#[tokio::test(flavor = "multi_thread")]
async fn props_and_slots_load_nothing() {
    let server = start().await;
    let before = ok(&server.get("/props").await);
    assert_eq!((&before["is_sleeping"], &before["total_slots"]), (&json!(true), &json!(32)));
    assert_eq!(before["default_generation_settings"]["n_ctx"], 0);
    assert!(server.service.stats().model.is_none());
    let lease = server.service.load().await.unwrap();
    let props = ok(&server.get("/props").await);
    assert_eq!((&props["is_sleeping"], &props["model_alias"]), (&json!(false), &json!("tiny")));
    assert_eq!(props["default_generation_settings"]["n_ctx"], lease.context_tokens());
    assert!(props["chat_template"].as_str().unwrap().contains("im_start"), "{props}");
    assert!(!props.to_string().contains(".gguf"), "where the file is, is nobody's business");
    let busy = async || {
        let slots = ok(&server.get("/slots").await);
        assert_eq!(slots.as_array().unwrap().len(), 32);
        slots.as_array().unwrap().iter().filter(|slot| slot["is_processing"] == true).count()
    };
    assert_eq!(busy().await, 0);
    let body = json!({ "prompt": "a", "max_tokens": 450, "stream": true }).to_string();
    let json = [("content-type", "application/json")];
    let _stream = server.request("POST", "/v1/completions", &json, body.as_bytes()).await;
    let mut seen = 0;
    while seen == 0 && server.service.stats().engine.unwrap().finished_requests == 0 {
        seen = busy().await;
    }
    assert!(seen <= 1);
}

async fn scraped(server: &TestServer, needle: &str) -> bool {
    server.get("/metrics").await.text().contains(needle)
}

#[tokio::test(flavor = "multi_thread")]
async fn operations() {
    let server = start().await;
    let health = ok(&server.get("/health").await);
    assert_eq!(
        (&health["status"], &health["model_state"]),
        (&json!("healthy"), &json!("unloaded"))
    );
    assert!(health["timestamp"].as_str().unwrap().ends_with('Z'), "{health}");
    assert_eq!(health["readiness"], ok(&server.get("/ready").await));
    assert_eq!(ok(&server.get("/api/v1/health").await)["version"], health["version"]);
    let ready = ok(&server.get("/ready").await);
    assert_eq!(ready["model_loaded"], false);
    ok(&server
        .post("/api/v1/code/generate", &json!({ "user_question": "add", "max_tokens": 3 }))
        .await);
    assert_eq!(ok(&server.get("/ready").await)["model_loaded"], true);
    assert_eq!(server.get("/nothing/here").await.status, 404);

    let metrics = server.get("/metrics").await;
    assert!(
        metrics.header("content-type").unwrap().starts_with("text/plain"),
        "{:?}",
        metrics.headers
    );
    let text = metrics.text();
    for needle in [
        "api_requests_total{endpoint=\"/api/v1/code/generate\",method=\"POST\",status=\"200\"} 1",
        "api_requests_total{endpoint=\"unmatched\",method=\"GET\",status=\"404\"} 1",
        "api_request_duration_seconds_count{endpoint=\"/api/v1/code/generate\",method=\"POST\"} 1",
        "ai_inference_duration_seconds_count{task=\"generate\"} 1",
        "cache_hit_rate",
        "hapa_cache_misses_total{tier=\"l1\"} 1",
        "hapa_generated_tokens_total 3",
        "hapa_requests_running",
        "hapa_time_to_first_token_seconds_count 1",
        "hapa_kv_cache_usage_ratio",
        "hapa_process_resident_bytes",
    ] {
        assert!(text.contains(needle), "{needle} is not in\n{text}");
    }
    assert!(!text.contains("/nothing/here"), "raw paths are no labels");

    let stats = ok(&server.get("/stats").await);
    for field in
        ["status", "version", "system_info", "performance_metrics", "response_times", "model"]
    {
        assert!(!stats[field].is_null(), "{field} is not in {stats}");
    }
    assert_eq!(stats["performance_metrics"]["engine"]["generated_tokens"], 3);
    let names: Vec<&str> = stats["scopes"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|scope| scope["name"].as_str())
        .collect();
    assert!(names.contains(&"ai_prediction") && names.contains(&"model_loading"), "{names:?}");
    assert!(scraped(&server, "endpoint=\"/stats\"").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_tells_the_stage_of_a_failed_load() {
    let server = start().await;
    std::fs::remove_file(match server.service.reference() {
        hapa_service::ModelRef::Path(path) => path,
        other => panic!("{other:?}"),
    })
    .unwrap();
    let reply = server.post("/api/v1/code/generate", &json!({ "user_question": "add" })).await;
    assert_eq!((reply.status, &reply.json()["error_code"]), (503, &json!("MODEL_UNAVAILABLE")));
    assert!(reply.header("retry-after").is_some());
    let ready = server.get("/ready").await;
    assert_eq!((ready.status, &ready.json()["status"]), (503, &json!("failed")));
}

/// Checks a trace against the rules of Chrome's trace event format, and gives its stages: name, begin and end in
/// microseconds, arguments.
fn stages_of(trace: &Value) -> Vec<(String, f64, f64, Value)> {
    assert!(["ms", "ns"].contains(&trace["displayTimeUnit"].as_str().unwrap()));
    let mut open: std::collections::BTreeMap<String, Vec<(String, f64, Value)>> =
        Default::default();
    let mut stages = Vec::new();
    for event in trace["traceEvents"].as_array().unwrap() {
        let text = |key: &str| {
            event[key].as_str().unwrap_or_else(|| panic!("no {key} in {event}")).to_owned()
        };
        assert!(event["pid"].is_u64() && event["tid"].is_u64(), "{event}");
        let (kind, name) = (text("ph"), text("name"));
        if kind == "M" {
            assert!(["process_name", "thread_name"].contains(&name.as_str()), "{event}");
            continue;
        }
        let time = event["ts"].as_f64().unwrap();
        assert!(time >= 0.0 && !text("cat").is_empty(), "{event}");
        match kind.as_str() {
            "X" => assert!(event["dur"].as_f64().unwrap() >= 0.0, "{event}"),
            "i" => assert!(["g", "p", "t"].contains(&event["s"].as_str().unwrap()), "{event}"),
            "b" => open.entry(text("cat") + &text("id")).or_default().push((
                name,
                time,
                event["args"].clone(),
            )),
            "e" => {
                let (began, from, args) =
                    open.get_mut(&(text("cat") + &text("id"))).unwrap().pop().unwrap();
                assert!(began == name && from <= time, "ends are of the innermost begin: {event}");
                if text("cat") == "request" {
                    stages.push((name, from, time, args));
                }
            }
            other => panic!("unknown kind {other}"),
        }
    }
    assert!(open.values().all(Vec::is_empty), "every begin has its end: {open:?}");
    stages
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_leaves_its_timeline() {
    let server = start_with(|_| {}, |service| service.lazy.load.prefill_chunk_tokens = 16).await;
    let question = "please write a function that does something ".repeat(4);
    let request = json!({ "user_question": question, "max_tokens": 5 });
    let reply = server.post("/api/v1/code/generate", &request).await;
    let id = reply.header("x-request-id").unwrap().to_owned();
    let body = ok(&reply);

    let trace = server.get(&format!("/api/v1/traces/{id}")).await;
    let stages = stages_of(&trace.json());
    let stage = |name: &str| {
        stages
            .iter()
            .find(|stage| stage.0 == name)
            .unwrap_or_else(|| panic!("no {name} in {stages:?}"))
    };
    let whole = stage("request");
    for name in
        ["model_loading", "cache_lookup", "prompt", "queue", "prefill", "decode", "post_processing"]
    {
        let stage = stage(name);
        assert!(
            whole.1 <= stage.1 && stage.2 <= whole.2,
            "{name} is inside of the request: {stages:?}"
        );
    }
    assert_eq!(
        (&whole.3["cache"], &stage("cache_lookup").3["outcome"]),
        (&json!("miss"), &json!("miss"))
    );
    let number = |value: &Value| value.as_str().unwrap().parse::<u64>().unwrap();
    let chunks: Vec<u64> = stages
        .iter()
        .filter(|stage| stage.0 == "prefill_chunk")
        .map(|chunk| {
            assert!(stage("prefill").1 <= chunk.1 && chunk.2 <= stage("prefill").2, "{stages:?}");
            number(&chunk.3["tokens"])
        })
        .collect();
    assert!(chunks.len() > 1 && chunks.iter().all(|tokens| *tokens <= 16), "{chunks:?}");
    let usage = |name: &str| body["usage"][name].as_u64().unwrap();
    let prompt = usage("prompt_tokens");
    assert!(usage("kv_pages") > 0 && usage("kv_bytes").is_multiple_of(usage("kv_pages")), "{body}");
    assert_eq!(chunks.iter().sum::<u64>(), prompt, "each token of the prompt was read once");
    assert_eq!(number(&stage("decode").3["tokens"]), 5);

    // An answer that a stop text ends is whole, so it is kept; the same again comes out of the cache, and its timeline
    // says so.
    let mut request = json!({ "prompt": "x", "max_tokens": 48 });
    let long = server.post("/v1/completions", &request).await;
    let text: Vec<char> = long.json()["choices"][0]["text"].as_str().unwrap().chars().collect();
    request["stop"] = json!(text[text.len() / 2..].iter().take(3).collect::<String>());
    let first = server.post("/v1/completions", &request).await;
    let hit = server.post("/v1/completions", &request).await;
    assert_eq!(hit.header("x-hapa-cache"), Some("hit-l1"));
    let id_of = |reply: &Reply| reply.header("x-request-id").unwrap().to_owned();
    let hit_id = id_of(&hit);
    let names =
        |trace: &Value| stages_of(trace).into_iter().map(|stage| stage.0).collect::<Vec<_>>();
    let trace = server.get(&format!("/api/v1/traces/{hit_id}")).await.json();
    assert_eq!(names(&trace), ["cache_lookup", "request"]);
    assert_eq!(
        server.get("/api/v1/traces").await.json()["request_ids"],
        json!([hit_id, id_of(&first), id_of(&long), id])
    );

    // A batch is one request with parts.
    let batch = json!({ "requests": [{ "user_question": "a", "max_tokens": 3 }, { "user_question": "b", "max_tokens": 3 }] });
    let reply = server.post("/api/v1/code/generate/batch", &batch).await;
    let trace =
        server.get(&format!("/api/v1/traces/{}", reply.header("x-request-id").unwrap())).await;
    assert_eq!(names(&trace.json()).iter().filter(|name| *name == "request").count(), 2);

    let missing = server.get("/api/v1/traces/none").await;
    assert_eq!((missing.status, &missing.json()["error_code"]), (404, &json!("NOT_FOUND")));
}

#[tokio::test(flavor = "multi_thread")]
async fn kernels_are_on_the_timeline_of_whoever_asks_for_them() {
    let server = start().await;
    let body = json!({ "prompt": "x = ", "max_tokens": 6 }).to_string();
    let ask = async |id: &str, trace: Option<&str>| {
        let mut headers = vec![
            ("content-type", "application/json"),
            ("x-request-id", id),
            ("cache-control", "no-cache"),
        ];
        headers.extend(trace.map(|trace| ("x-hapa-trace", trace)));
        let reply = server.send("POST", "/v1/completions", &headers, body.as_bytes()).await;
        let trace = server.get(&format!("/api/v1/traces/{id}")).await;
        (reply, trace)
    };
    let (reply, trace) = ask("with", Some("kernels")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let generated = reply.json()["usage"]["completion_tokens"].as_u64().unwrap();
    let stages = stages_of(&trace.json());
    let named = |name: &str| stages.iter().filter(|stage| stage.0 == name).collect::<Vec<_>>();
    let steps = named("step");
    // Drafted tokens may come several a step.
    assert!((2..=generated as usize).contains(&steps.len()), "{stages:?}");
    assert_eq!(steps.len(), named("layer 0").len());
    assert_eq!(named("layer 0").len(), named("layer 1").len());
    for kernel in ["qkv", "rotation", "attention", "output", "gate_up", "down"] {
        let found = named(kernel);
        assert!(found.len() >= steps.len(), "{kernel}: {stages:?}");
        for span in found {
            let within =
                |outer: &&&(String, f64, f64, Value)| outer.1 <= span.1 && span.2 <= outer.2;
            let layers = named("layer 0").into_iter().chain(named("layer 1")).collect::<Vec<_>>();
            assert!(
                layers.iter().any(|layer| within(&layer)),
                "{kernel} is in a layer: {stages:?}"
            );
            assert!(steps.iter().any(|step| within(&step)), "{kernel} is in a step: {stages:?}");
        }
    }
    assert_eq!(named("logits").len(), steps.len(), "each step chose a token");

    let (_, trace) = ask("without", None).await;
    assert!(!trace.text().contains("gate_up"), "nobody asked");
    let (refused, _) = ask("odd", Some("everything")).await;
    assert_eq!(refused.status, 400);
}

#[tokio::test]
async fn recent_requests_are_listed_with_their_stages_and_who_looks_is_not() {
    let server = common::start().await;
    let ask = |id: &'static str, body: &'static str| {
        let headers = [("content-type", "application/json"), ("x-request-id", id)];
        let server = &server;
        async move { server.send("POST", "/api/v1/code/complete", &headers, body.as_bytes()).await }
    };
    assert_eq!(ask("good", r#"{"prefix":"x = ","max_tokens":4}"#).await.status, 200);
    assert_eq!(ask("bad", r#"{"prefix":""}"#).await.status, 422);
    server.get("/stats").await;
    let list = server.get("/api/v1/traces").await.json();
    let requests = list["requests"].as_array().unwrap();
    let seen: Vec<_> = requests
        .iter()
        .map(|request| (request["request_id"].as_str().unwrap(), request["status"].as_u64()))
        .collect();
    assert_eq!(seen, [("bad", Some(422)), ("good", Some(200))], "the newest first");
    assert_eq!(requests[1]["endpoint"], "/api/v1/code/complete");
    let stages = requests[1]["stages"].as_array().unwrap();
    assert!(stages.iter().any(|stage| stage["name"] == "decode"), "{stages:?}");
    server.stopped().await;
}

#[tokio::test]
async fn the_page_is_there_and_keeps_to_itself() {
    let server = common::start().await;
    let page = server.get("/").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let script = server.get("/web/app.js").await;
    assert_eq!(script.header("content-type"), Some("text/javascript; charset=utf-8"));
    let etag = script.header("etag").unwrap();
    let again = server.send("GET", "/web/app.js", &[("if-none-match", etag)], b"").await;
    assert_eq!((again.status, again.body.len()), (304, 0));
    assert_eq!(server.get("/web/nothing.js").await.status, 404);
    server.stopped().await;
}
