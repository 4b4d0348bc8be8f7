//! What needs a route that only tests have.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use hapa_metrics::Exporter;
use hapa_service::{ModelRef, Service, ServiceOptions};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use super::router;
use crate::options::ServerOptions;
use crate::state::AppState;

#[tokio::test]
async fn a_panic_is_an_error_with_an_id_and_nothing_more() {
    let service = Service::new(ServiceOptions::new(ModelRef::Path("nowhere.gguf".into()))).unwrap();
    let router = router(AppState::new(ServerOptions::default(), service, Exporter::local()));
    for _ in 0..2 {
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
    }
}
