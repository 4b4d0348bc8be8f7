//! Keys: what their holders may, and that tenants learn nothing of each other.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod common;

use std::num::NonZeroU32;

use common::{Reply, TestServer, start_with};
use hapa_server::{ApiKey, KeyFile, NewKey, Rate, Scope};
use serde_json::{Value, json};

struct Guarded {
    server: TestServer,
    file: KeyFile,
    _folder: tempfile::TempDir,
}

impl Guarded {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = KeyFile::at(folder.path().join("keys.json"));
        let keys = file.clone();
        let server = start_with(|options| options.keys = Some(keys), |_| {}).await;
        Self { server, file, _folder: folder }
    }

    fn key(&self, name: &str, tenant: Option<&str>, rate: Rate) -> ApiKey {
        let new = NewKey {
            tenant: tenant.map(str::to_owned),
            rate,
            ..NewKey::new(name, [Scope::CodeGeneration])
        };
        self.file.create(new).unwrap().0
    }

    async fn post(&self, key: &str, path: &str, body: &Value) -> Reply {
        let bearer = format!("Bearer {key}");
        let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
        self.server.send("POST", path, &headers, body.to_string().as_bytes()).await
    }

    /// Waits until the server has read a key, and with it those that were made before.
    async fn until_known(&self, key: &ApiKey) {
        for _ in 0..400 {
            let value = format!("Bearer {}", key.reveal());
            let bearer = ("authorization", value.as_str());
            let guarded = self.server.get("/stats").await.status == 401;
            if guarded && self.server.send("GET", "/v1/models", &[bearer], b"").await.status == 200
            {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("the server never knew the key");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_the_shape_of_the_api_that_was_asked() {
    let guarded = Guarded::start().await;
    assert_eq!(guarded.server.get("/stats").await.status, 200, "no keys yet, on loopback");
    let key = guarded.key("a", None, Rate::default());
    guarded.until_known(&key).await;
    let question = json!({ "user_question": "x", "max_tokens": 1 });
    let refused = guarded.server.post("/api/v1/code/generate", &question).await;
    assert_eq!(
        (refused.status, refused.json()["error_code"].clone()),
        (401, json!("UNAUTHORIZED"))
    );
    assert!(refused.header("www-authenticate").is_some());
    let chat = json!({ "messages": [{ "role": "user", "content": "x" }], "max_tokens": 1 });
    let refused = guarded.server.post("/v1/chat/completions", &chat).await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.json()["error"]["code"], "invalid_api_key");
    assert_eq!(refused.json()["error"]["type"], "authentication_error");
    let forbidden = guarded.post(key.reveal(), "/infill", &json!({ "input_prefix": "x" })).await;
    assert_eq!(forbidden.status, 403);
    assert_eq!(forbidden.json()["error"]["type"], "permission_error");
    let complete = json!({ "prefix": "x" });
    let forbidden = guarded.post(key.reveal(), "/api/v1/code/complete", &complete).await;
    assert_eq!(forbidden.json()["error_code"], "FORBIDDEN");
    assert!(forbidden.text().contains("code_completion"), "{}", forbidden.text());
    assert_eq!(guarded.post(key.reveal(), "/v1/chat/completions", &chat).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_share_neither_answers_nor_prompts() {
    let guarded = Guarded::start().await;
    let [a, b, friend] = [("a", None), ("b", Some("team")), ("c", Some("team"))]
        .map(|(name, tenant)| guarded.key(name, tenant, Rate::default()));
    guarded.until_known(&friend).await;
    // A stop text ends the answer, so that it is whole and kept.
    let body = json!({ "prompt": "def f(x):\n    return x\n".repeat(8), "max_tokens": 200,
        "stop": ["a", "e", "t", " ", "s", "1", "0", "o", "r", "c"], "temperature": 0 });
    let ask = async |key: &ApiKey| {
        let reply = guarded.post(key.reveal(), "/v1/completions", &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let reason = reply.json()["choices"][0]["finish_reason"].clone();
        (reply.header("x-hapa-cache").unwrap().to_owned(), reason)
    };
    let cached = || guarded.server.service.stats().engine.unwrap().cached_tokens;
    let (first, reason) = ask(&a).await;
    assert_eq!((first.as_str(), reason), ("miss", json!("stop")), "choose other stop texts");
    assert_eq!(ask(&a).await.0, "hit-l1");
    assert_eq!(ask(&b).await.0, "miss");
    assert_eq!(cached(), 0, "nothing of the prompt of another tenant was taken over");
    assert_eq!(ask(&friend).await.0, "hit-l1", "one tenant, two keys");
    // The same prompt of the same tenant, with another answer: now the engine has its beginning.
    let mut other = body.clone();
    other["max_tokens"] = json!(199);
    assert_eq!(guarded.post(a.reveal(), "/v1/completions", &other).await.status, 200);
    assert!(cached() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_are_each_keys_own_and_told() {
    let guarded = Guarded::start().await;
    let rate = |requests, tokens| Rate {
        requests: NonZeroU32::new(requests),
        tokens: NonZeroU32::new(tokens),
    };
    let requests = guarded.key("requests", None, rate(3, 0));
    let tokens = guarded.key("tokens", None, rate(0, 200));
    let chats = guarded.key("chats", None, rate(0, 3_000));
    let free = guarded.key("free", None, Rate::default());
    guarded.until_known(&free).await;
    let body = json!({ "prompt": "x", "max_tokens": 1 });
    let mut statuses = Vec::new();
    for _ in 0..6 {
        let reply = guarded.post(requests.reveal(), "/v1/completions", &body).await;
        assert_eq!(reply.header("x-ratelimit-limit-requests"), Some("3"));
        assert!(reply.header("x-ratelimit-remaining-requests").is_some());
        if reply.status == 429 {
            assert_eq!(reply.json()["error"]["code"], "rate_limit_exceeded");
            let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
            assert!((1..=20).contains(&wait), "{wait}");
        }
        statuses.push(reply.status);
    }
    assert_eq!(statuses[..3], [200, 200, 200]);
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(guarded.post(free.reveal(), "/v1/completions", &body).await.status, 200);

    // Each of a batch is a request of its own.
    let batch = |count, max_tokens: usize| json!({ "requests": (0..count).map(|number| json!({ "user_question": format!("{number}"), "max_tokens": max_tokens })).collect::<Vec<_>>() });
    let batched = guarded.key("batched", None, rate(3, 0));
    guarded.until_known(&batched).await;
    let refused_of = async |key: &ApiKey, body: Value| {
        let reply = guarded.post(key.reveal(), "/api/v1/code/generate/batch", &body).await.json();
        let results = reply["results"].as_array().unwrap().clone();
        let is_refused = |result: &Value| result["error_code"] == "RATE_LIMITED";
        results.iter().map(is_refused).collect::<Vec<_>>()
    };
    assert!(refused_of(&batched, batch(6, 1)).await.contains(&true));

    // What may be used is taken at once: of two at the same time the second finds too little.
    assert_eq!(refused_of(&tokens, batch(2, 150)).await, [false, true]);
    let never = json!({ "user_question": "x", "max_tokens": 201 });
    let never = guarded.post(tokens.reveal(), "/api/v1/code/generate", &never).await;
    assert!(never.status == 429 && never.text().contains("max_tokens"), "{}", never.text());
    assert_eq!(never.json()["error_code"], "RATE_LIMITED");
    assert_eq!(never.header("x-ratelimit-limit-tokens"), Some("200"));

    // Nobody asked for more than the key has: several chats without a limit fit into its minute.
    let body = json!({ "messages": [{ "role": "user", "content": "x" }] });
    for _ in 0..3 {
        let reply = guarded.post(chats.reveal(), "/v1/chat/completions", &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let body = json!({ "messages": [{ "role": "user", "content": "x" }], "n": 16 });
    let small = guarded.key("small", None, rate(0, 100));
    guarded.until_known(&small).await;
    let reply = guarded.post(small.reveal(), "/v1/chat/completions", &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_asked_for_is_charged_and_what_is_left_is_given_back() {
    let guarded = Guarded::start().await;
    let rate = Rate { tokens: NonZeroU32::new(400), ..Rate::default() };
    let new =
        NewKey { rate, ..NewKey::new("both", [Scope::CodeGeneration, Scope::CodeCompletion]) };
    let key = guarded.file.create(new).unwrap().0;
    guarded.until_known(&key).await;
    let left = |reply: &Reply| {
        reply.header("x-ratelimit-remaining-tokens").unwrap().parse::<i64>().unwrap()
    };
    let candidates = json!({ "prefix": "x = ", "n": 5, "max_tokens": 100 });
    let refused = guarded.post(key.reveal(), "/api/v1/code/complete", &candidates).await;
    assert!(refused.status == 429 && refused.text().contains(" 501 tokens"), "{refused:?}");
    let tool = json!({ "type": "function", "function": { "name": "f", "description": "d".repeat(2_000), "parameters": {} } });
    let chat = json!({ "messages": [{ "role": "user", "content": "x" }], "tools": [tool], "max_tokens": 1 });
    let refused = guarded.post(key.reveal(), "/v1/chat/completions", &chat).await;
    assert!(refused.status == 429, "{refused:?}");
    assert_eq!(left(&refused), 400);
    // Refused for another reason than its tokens.
    let invalid = json!({ "user_question": "x", "max_tokens": 300, "temperature": 99 });
    let invalid = guarded.post(key.reveal(), "/api/v1/code/generate", &invalid).await;
    assert_eq!((invalid.status, left(&invalid)), (422, 400));

    for stream in [false, true] {
        let body = json!({ "prompt": "x", "max_tokens": 300, "stop": ["a", "e", " ", "1"], "stream": stream,
            "stream_options": { "include_usage": true } });
        let body = if stream { body } else { without(body, "stream_options") };
        let reply = guarded.post(key.reveal(), "/v1/completions", &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let usage = match stream {
            false => reply.json()["usage"].clone(),
            true => {
                let events = reply.events();
                let last: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
                last["usage"].clone()
            }
        };
        let used = usage["total_tokens"].as_i64().unwrap();
        let asked = [("x-api-key", key.reveal())];
        let next = guarded.server.send("GET", "/v1/models", &asked, b"").await;
        // And what flows in meanwhile; without giving back it would be at most 100 and that.
        let left = left(&next);
        assert!(left >= 400 - 2 * used, "{left} are left, {usage} used");
    }
}

fn without(mut body: Value, field: &str) -> Value {
    body.as_object_mut().unwrap().remove(field);
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn of_openais_older_route_each_scope_has_its_part() {
    let guarded = Guarded::start().await;
    let generation = guarded.key("generation", None, Rate::default());
    let new = NewKey::new("completion", [Scope::CodeCompletion]);
    let completion = guarded.file.create(new).unwrap().0;
    guarded.until_known(&completion).await;
    let raw = json!({ "prompt": "def f(", "max_tokens": 1 });
    let between = json!({ "prompt": "def f(", "suffix": "    pass", "max_tokens": 1 });
    for (key, body, status) in [
        (&generation, &raw, 200),
        (&generation, &between, 403),
        (&completion, &raw, 403),
        (&completion, &between, 200),
    ] {
        let reply = guarded.post(key.reveal(), "/v1/completions", body).await;
        assert_eq!(reply.status, status, "{}", reply.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_load_tells_strangers_no_paths_and_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = KeyFile::at(folder.path().join("keys.json"));
    let rate = Rate { tokens: NonZeroU32::new(500), ..Rate::default() };
    let new = NewKey { rate, ..NewKey::new("a", [Scope::Admin]) };
    let key = file.create(new).unwrap().0;
    let missing = folder.path().join("secret.gguf");
    let server = start_with(
        |options| options.keys = Some(file),
        |options| options.model = hapa_service::ModelRef::Path(missing),
    )
    .await;
    let headers = [("content-type", "application/json"), ("x-api-key", key.reveal())];
    let body = json!({ "user_question": "x", "max_tokens": 400 }).to_string();
    let failed = server.send("POST", "/api/v1/code/generate", &headers, body.as_bytes()).await;
    assert_eq!(failed.status, 503, "{}", failed.text());
    assert_eq!(failed.header("x-ratelimit-remaining-tokens"), Some("500"));
    let ready = server.get("/ready").await;
    assert_eq!(ready.json()["status"], "failed");
    assert!(!ready.text().contains("secret"), "{}", ready.text());
    let stats = server.send("GET", "/stats", &headers[1..], b"").await;
    assert!(stats.text().contains("secret"), "an administrator is told");
}
