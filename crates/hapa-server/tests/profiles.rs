//! Profiles of a running server: processor time and memory.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod common;

use common::start;
use hapa_profiler::ProfiledAlloc;
use serde_json::json;

#[global_allocator]
static ALLOCATOR: ProfiledAlloc = ProfiledAlloc::system();

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_of_the_server() {
    let server = start().await;
    for query in ["seconds=0", "seconds=61", "seconds=many", "seconds=1&format=pdf"] {
        let refused = server.get(&format!("/debug/profile?{query}")).await;
        let field = if query.contains("format") { "format: " } else { "seconds: " };
        let said = refused.json()["error_message"].as_str().unwrap().to_owned();
        assert!(refused.status == 422 && said.starts_with(field), "{query}: {said}");
    }
    let ask = json!({ "user_question": "add", "max_tokens": 200 });
    let (first, second, _) = tokio::join!(
        server.get("/debug/profile?seconds=1"),
        async {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            server.get("/debug/profile?seconds=1&format=json").await
        },
        server.post("/api/v1/code/generate", &ask),
    );
    assert_eq!((first.status, first.header("content-type")), (200, Some("image/svg+xml")));
    assert!(first.text().contains("<svg"));
    assert_eq!(second.status, 409, "one at a time");
    let table = server.get("/debug/profile?seconds=1&format=table").await;
    assert!(table.status == 200 && table.text().contains("samples"), "{}", table.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heap_profile_of_the_server() {
    let server = start().await;
    for query in ["seconds=0", "seconds=1&format=pdf", "seconds=1&of=nothing"] {
        assert_eq!(server.get(&format!("/debug/heap?{query}")).await.status, 422, "{query}");
    }
    let ask = json!({ "user_question": "add", "max_tokens": 50 });
    let (first, second, _) = tokio::join!(
        server.get("/debug/heap?seconds=2&of=allocated"),
        async {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            server.get("/debug/heap?seconds=60&format=json").await
        },
        server.post("/api/v1/code/generate", &ask),
    );
    assert_eq!((first.status, first.header("content-type")), (200, Some("image/svg+xml")));
    assert!(first.text().contains("<svg"));
    // Who comes meanwhile gets what there is, at once.
    assert_eq!(second.status, 200);
    assert!(second.json()["wall_seconds"].as_f64() < Some(30.0));
    let loading = first.text().contains("hapa_model");
    assert!(loading, "the model was loaded meanwhile: {}", first.text());
}
