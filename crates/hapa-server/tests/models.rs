//! Several models over HTTP: names, refusals, who answered, what is told of them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod common;

use common::{TestServer, start_with};
use hapa_model::testing::TinyModel;
use hapa_service::ModelRef;
use serde_json::{Value, json};

/// A server with the models `tiny` and `other`, and room for both or for one.
async fn two(budget: Option<u64>) -> (TestServer, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.gguf");
    TinyModel::qwen2().seed(7).write(&path).unwrap();
    let server = start_with(
        |_| {},
        |options| {
            options.models = vec![ModelRef::Path(path)];
            options.memory_budget = budget;
            options.lazy.load.kv_budget_bytes = Some(1 << 20);
        },
    )
    .await;
    (server, folder)
}

async fn ok(server: &TestServer, path: &str, body: Value) -> Value {
    let reply = server.post(path, &body).await;
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    reply.json()
}

fn model_of<'a>(stats: &'a Value, name: &str) -> &'a Value {
    let models = stats["models"].as_array().unwrap();
    models.iter().find(|model| model["name"] == name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_and_unknown_ones_refused() {
    let (server, _folder) = two(None).await;
    let list = server.get("/v1/models").await.json();
    let ids: Vec<&Value> = list["data"].as_array().unwrap().iter().map(|m| &m["id"]).collect();
    assert_eq!(ids, ["tiny", "other"]);
    for (asked, id) in [("tiny", "tiny"), ("other", "other"), ("default", "tiny"), ("hapa", "tiny")]
    {
        assert_eq!(server.get(&format!("/v1/models/{asked}")).await.json()["id"], id);
    }
    let refused = server.get("/v1/models/gpt-9").await;
    assert_eq!(refused.status, 404);
    let said = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!(said, "the model `gpt-9` is not served here; `tiny`, `other` are");
    let wrong = "gpt-9";
    let messages = json!([{ "role": "user", "content": "hi" }]);
    for (path, body) in [
        ("/v1/chat/completions", json!({ "model": wrong, "messages": messages })),
        ("/v1/completions", json!({ "model": wrong, "prompt": "x" })),
        ("/v1/messages", json!({ "model": wrong, "max_tokens": 1, "messages": messages })),
        ("/v1/messages/count_tokens", json!({ "model": wrong, "messages": messages })),
        ("/api/v1/code/generate", json!({ "model": wrong, "user_question": "x" })),
        ("/api/v1/code/complete", json!({ "model": wrong, "prefix": "x" })),
        ("/infill", json!({ "model": wrong, "input_prefix": "x" })),
        ("/tokenize", json!({ "model": wrong, "content": "x" })),
        ("/detokenize", json!({ "model": wrong, "tokens": [1] })),
    ] {
        let reply = server.post(path, &body).await;
        assert_eq!(reply.status, 404, "{path}: {}", reply.text());
        assert!(reply.text().contains("`tiny`, `other` are"), "{path}: {}", reply.text());
    }
    for path in ["/props?model=gpt-9", "/slots?model=gpt-9"] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
    assert!(server.service.stats().models.iter().all(|model| model.engine.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_that_was_asked_answers() {
    let (server, _folder) = two(None).await;
    let ask = |model: &str| json!({ "model": model, "prompt": "def f(x):", "max_tokens": 12 });
    let tiny = ok(&server, "/v1/completions", ask("tiny")).await;
    let other = ok(&server, "/v1/completions", ask("other")).await;
    assert_eq!((&tiny["model"], &other["model"]), (&json!("tiny"), &json!("other")));
    assert_ne!(tiny["choices"][0]["text"], other["choices"][0]["text"]);
    let default =
        ok(&server, "/v1/completions", json!({ "prompt": "def f(x):", "max_tokens": 12 })).await;
    assert_eq!(default["choices"][0]["text"], tiny["choices"][0]["text"]);

    let mut streaming = ask("other");
    streaming["stream"] = json!(true);
    let events = server.post("/v1/completions", &streaming).await.events();
    let chunks = events.iter().filter(|event| *event != "[DONE]");
    let chunks: Vec<Value> = chunks.map(|event| serde_json::from_str(event).unwrap()).collect();
    assert!(chunks.iter().all(|chunk| chunk["model"] == "other"), "{events:?}");
    let text: String =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    assert_eq!(other["choices"][0]["text"], text);

    let messages = json!([{ "role": "user", "content": "hi" }]);
    let letter = json!({ "model": "other", "max_tokens": 2, "messages": messages });
    assert_eq!(ok(&server, "/v1/messages", letter).await["model"], "other");
    let question = json!({ "model": "other", "user_question": "add", "max_tokens": 2 });
    assert_eq!(ok(&server, "/api/v1/code/generate", question.clone()).await["model"], "other");
    let batch = json!({ "requests": [{ "user_question": "add", "max_tokens": 2 }, question] });
    let batch = ok(&server, "/api/v1/code/generate/batch", batch).await;
    assert_eq!(batch["results"][0]["model"], "tiny");
    assert_eq!(batch["results"][1]["model"], "other");
    let fill = json!({ "model": "other", "input_prefix": "x = ", "n_predict": 2 });
    assert_eq!(ok(&server, "/infill", fill).await["model"], "other");
    let tokens = ok(&server, "/tokenize", json!({ "model": "other", "content": "def" })).await;
    let back = json!({ "model": "other", "tokens": tokens["tokens"] });
    assert_eq!(ok(&server, "/detokenize", back).await["content"], "def");
    assert_eq!(server.get("/props?model=other").await.json()["model_alias"], "other");
    assert_eq!(server.get("/props").await.json()["model_alias"], "tiny");
    assert!(server.get("/slots?model=other").await.json()[0]["n_ctx"].as_u64().unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_loaded_and_what_left_is_told() {
    let (server, folder) = two(None).await;
    let ask = |model: &str| json!({ "model": model, "prompt": "x = ", "max_tokens": 2 });
    ok(&server, "/v1/completions", ask("other")).await;
    let stats = server.get("/stats").await.json();
    assert_eq!(
        (&stats["model"]["name"], &stats["model"]["state"]),
        (&json!("tiny"), &json!("unloaded"))
    );
    assert_eq!(model_of(&stats, "tiny")["state"], "unloaded");
    assert_eq!(model_of(&stats, "tiny")["last_used_seconds"], Value::Null);
    let other = model_of(&stats, "other");
    assert_eq!(other["state"], "ready");
    assert!(other["last_used_seconds"].as_f64().unwrap() < 60.0);
    let bytes = other["bytes"].as_u64().unwrap();
    assert_eq!(
        stats["memory"],
        json!({ "budget_bytes": null, "held_bytes": bytes, "loads_waiting": 0 })
    );
    // Nobody has asked for the default one.
    let ready = server.get("/ready").await;
    assert_eq!((ready.status, &ready.json()["model_loaded"]), (200, &json!(false)));
    drop((server, folder));

    let (server, _folder) = two(Some(bytes + 1)).await;
    for model in ["tiny", "other", "tiny"] {
        ok(&server, "/v1/completions", ask(model)).await;
    }
    let stats = server.get("/stats").await.json();
    assert_eq!(model_of(&stats, "tiny")["unloads"], json!({ "idle": 0, "room": 1, "asked": 0 }));
    assert_eq!(
        (&model_of(&stats, "tiny")["state"], &model_of(&stats, "other")["state"]),
        (&json!("ready"), &json!("unloaded"))
    );
    assert_eq!(model_of(&stats, "other")["bytes"], 0);
    assert!(stats["memory"]["held_bytes"].as_u64().unwrap() <= bytes + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_cannot_be_loaded_says_why_and_leaves_the_others() {
    let (server, folder) = two(None).await;
    std::fs::write(folder.path().join("other.gguf"), "no model").unwrap();
    let ask = |model: &str| json!({ "model": model, "prompt": "x = ", "max_tokens": 2 });
    let refused = server.post("/v1/completions", &ask("other")).await;
    assert!(refused.status >= 500, "{}", refused.text());
    let stats = server.get("/stats").await.json();
    let other = model_of(&stats, "other");
    assert_eq!((&other["state"], &other["load"]["status"]), (&json!("failed"), &json!("failed")));
    let why = other["load"]["error_message"].as_str().unwrap();
    assert!(why.contains("other.gguf"), "{why}");
    assert_eq!(model_of(&stats, "tiny")["load"], Value::Null);
    assert_eq!(server.get("/ready").await.status, 200, "the default one is not concerned");
    ok(&server, "/v1/completions", ask("tiny")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_the_models_apart() {
    let (server, _folder) = two(Some(1)).await;
    for model in ["tiny", "other"] {
        let body = json!({ "model": model, "prompt": "x = ", "max_tokens": 2 });
        ok(&server, "/v1/completions", body).await;
    }
    let metrics = server.get("/metrics").await;
    // The process has one recorder, and another test's server may have it.
    if !metrics.text().contains("hapa_model_state{model=\"other\"")
        && std::env::var_os("NEXTEST").is_none()
    {
        return;
    }
    for line in [
        "hapa_model_state{model=\"tiny\",state=\"unloaded\"} 1",
        "hapa_model_state{model=\"other\",state=\"ready\"} 1",
        "hapa_model_bytes{model=\"tiny\"} 0",
        "hapa_model_unloads_total{cause=\"room\"} 1",
        "hapa_model_unloads_total{cause=\"idle\"} 0",
    ] {
        assert!(metrics.text().lines().any(|found| found == line), "{line} in\n{}", metrics.text());
    }
}
