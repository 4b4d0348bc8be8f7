//! What needs a route that only tests have.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use hapa_metrics::Exporter;
use hapa_model::testing::TinyModel;
use hapa_service::{ModelRef, Service, ServiceOptions};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use super::{router, routes};
use crate::auth::{Access, ApiKey, KeyFile, Keyring, NewKey, Scope};
use crate::options::ServerOptions;
use crate::state::{AppState, StateParts};

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_an_error_with_an_id_and_the_engine_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("tiny.gguf");
    TinyModel::qwen2().write(&model).unwrap();
    let mut options = ServiceOptions::new(ModelRef::Path(model));
    options.lazy.load.threads = 1;
    let service = Service::new(options).unwrap();
    let state =
        AppState::new(ServerOptions::default(), service, Exporter::local(), StateParts::default());
    let router = router(state);
    for number in 0..2 {
        let request =
            Request::get("/test/panic").header("host", "localhost").body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["error_code"], "INTERNAL_ERROR");
        assert_eq!(body["error_details"]["request_id"], id);
        assert!(!body.to_string().contains("on purpose"), "what a panic says stays in the log");
        // The engine goes on.
        let body = format!("{{\"prompt\": \"{number}\", \"max_tokens\": 2}}");
        let request = Request::post("/v1/completions")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Body::from(body))
            .unwrap();
        assert_eq!(router.clone().oneshot(request).await.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_program_whose_allocator_tells_nothing_has_no_heap_profile() {
    let service = Service::new(ServiceOptions::new(ModelRef::Path("nowhere.gguf".into()))).unwrap();
    let state =
        AppState::new(ServerOptions::default(), service, Exporter::local(), StateParts::default());
    let request = Request::get("/debug/heap?seconds=1").header("host", "localhost");
    let response = router(state).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_IMPLEMENTED);
}

/// A router that demands keys, and one key of each scope.
fn guarded(folder: &std::path::Path) -> (axum::Router, Vec<(Scope, ApiKey)>) {
    let file = KeyFile::at(folder.join("keys.json"));
    let key = |scope: Scope| {
        let new = NewKey::new(scope.to_string(), [scope]);
        (scope, file.create(new).unwrap().0)
    };
    let keys: Vec<_> = Scope::ALL.into_iter().map(key).collect();
    let service = Service::new(ServiceOptions::new(ModelRef::Path("nowhere.gguf".into()))).unwrap();
    let keyring = Some(Arc::new(Keyring::open(file).unwrap()));
    let parts = StateParts { keyring, tracing: None };
    let state = AppState::new(ServerOptions::default(), service, Exporter::local(), parts);
    (router(state), keys)
}

#[tokio::test]
async fn every_route_is_denied_without_a_key_and_without_its_scope() {
    let folder = tempfile::tempdir().unwrap();
    let (router, keys) = guarded(folder.path());
    let ask = async |method: &str, path: &str, key: Option<&str>| {
        let mut request = Request::builder().method(method).uri(path).header("host", "anywhere");
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        (response.status(), response.headers().get("www-authenticate").is_some())
    };
    let patterns = routes().patterns;
    assert!(patterns.len() >= 18, "{patterns:?}");
    for pattern in patterns {
        let path = pattern.replace("{*file}", "x").replace(['{', '}'], "");
        let access = Access::of(Some(pattern));
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
            for wrong in [None, Some("hapa_0123456789abcdef0123456789abcdef"), Some("x"), Some("")]
            {
                let (status, challenged) = ask(method, &path, wrong).await;
                let denied = status == StatusCode::UNAUTHORIZED;
                assert_eq!(denied, access != Access::Open, "{method} {path} {wrong:?}: {status}");
                assert_eq!(challenged, denied, "{method} {path}");
            }
            for (scope, key) in &keys {
                // What a handler makes of an empty body, or of waiting for a profile, is another matter.
                if access.allows(&[*scope]) {
                    continue;
                }
                let (status, _) = ask(method, &path, Some(key.reveal())).await;
                assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path} with {scope}");
            }
        }
    }
    let open: Vec<_> =
        routes().patterns.into_iter().filter(|p| Access::of(Some(p)) == Access::Open).collect();
    for pattern in &open {
        let known = [
            "/health",
            "/api/v1/health",
            "/ready",
            "/docs",
            "/docs/{*file}",
            "/openapi.json",
            "/",
            "/web/{*file}",
        ];
        assert!(known.contains(pattern), "{pattern} is open to everybody");
    }
    assert_eq!(ask("GET", "/nothing", None).await.0, StatusCode::UNAUTHORIZED);
    let (_, admin) = &keys[2];
    assert_eq!(ask("GET", "/nothing", Some(admin.reveal())).await.0, StatusCode::NOT_FOUND);
    assert_eq!(ask("GET", "/stats", Some(admin.reveal())).await.0, StatusCode::OK);
}
