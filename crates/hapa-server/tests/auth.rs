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
            name: name.to_owned(),
            scopes: vec![Scope::CodeGeneration],
            tenant: tenant.map(str::to_owned),
            rate,
            expires: None,
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

    let ask = async |max_tokens: usize| {
        let body = json!({ "user_question": "x", "max_tokens": max_tokens });
        guarded.post(tokens.reveal(), "/api/v1/code/generate", &body).await
    };
    let answered = ask(150).await;
    assert_eq!(answered.status, 200);
    assert_eq!(answered.header("x-ratelimit-limit-tokens"), Some("200"));
    let refused = ask(190).await;
    assert_eq!((refused.status, &refused.json()["error_code"]), (429, &json!("RATE_LIMITED")));
    assert!(refused.header("retry-after").is_some());
    let never = ask(201).await;
    assert!(never.status == 429 && never.text().contains("max_tokens"), "{}", never.text());

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
