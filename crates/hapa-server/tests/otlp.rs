//! Spans of requests, as a collector gets them: a real one over HTTP that decodes OTLP's protobuf.
#![cfg(feature = "otlp")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod common;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use common::{Reply, TestServer, start_with};
use hapa_server::OtlpOptions;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
use prost::Message as _;
use serde_json::json;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// What a collector was sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

impl Collector {
    /// Listens on a free port; its address.
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let kept = collector.clone();
        let take = async move |headers: HeaderMap, body: Bytes| {
            assert_eq!(headers["content-type"], "application/x-protobuf");
            kept.0.lock().unwrap().push(ExportTraceServiceRequest::decode(body).unwrap());
            StatusCode::OK
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().route("/v1/traces", post(take));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (collector, address)
    }

    fn spans(&self) -> Vec<Span> {
        let sent = self.0.lock().unwrap();
        let resources = sent.iter().flat_map(|request| &request.resource_spans);
        let scopes = resources.flat_map(|spans| &spans.scope_spans);
        scopes.flat_map(|spans| &spans.spans).cloned().collect()
    }

    fn resource(&self) -> Vec<KeyValue> {
        let sent = self.0.lock().unwrap();
        sent[0].resource_spans[0].resource.clone().unwrap().attributes
    }
}

async fn server(endpoint: &str, sample_ratio: f64) -> TestServer {
    let otlp = OtlpOptions { endpoint: Some(endpoint.to_owned()), sample_ratio };
    start_with(|server| server.otlp = otlp, |_| {}).await
}

async fn ask(server: &TestServer, headers: &[(&str, &str)]) -> Reply {
    let body = json!({ "user_question": "add", "max_tokens": 5 }).to_string();
    let headers = [&[("content-type", "application/json")], headers].concat();
    server.send("POST", "/api/v1/code/generate", &headers, body.as_bytes()).await
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(attributes: &[KeyValue], key: &str) -> Any {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    let AnyValue { value } =
        found.unwrap_or_else(|| panic!("no {key} in {attributes:?}")).value.clone().unwrap();
    value.unwrap()
}

fn text(text: &str) -> Any {
    Any::StringValue(text.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_continues_the_trace_of_its_client() {
    let (collector, endpoint) = Collector::start().await;
    let server = server(&endpoint, 1.0).await;
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    let headers = [
        ("traceparent", traceparent.as_str()),
        ("tracestate", "editor=7"),
        ("x-request-id", "asked-with-a-trace"),
    ];
    let reply = ask(&server, &headers).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let answered = reply.header("traceparent").unwrap().to_owned();
    assert_eq!(server.get("/health").await.header("traceparent"), None, "who looks is not traced");
    server.stopped().await;

    let spans = collector.spans();
    let by_name: HashMap<&str, &Span> =
        spans.iter().map(|span| (span.name.as_str(), span)).collect();
    let root = by_name["POST /api/v1/code/generate"];
    assert_eq!(root.kind, SpanKind::Server as i32);
    assert_eq!((hex(&root.trace_id), hex(&root.parent_span_id)), (TRACE.into(), PARENT.into()));
    assert_eq!(root.trace_state, "editor=7");
    assert_eq!(answered, format!("00-{TRACE}-{}-01", hex(&root.span_id)));
    assert_eq!(attribute(&root.attributes, "http.route"), text("/api/v1/code/generate"));
    assert_eq!(attribute(&root.attributes, "http.request.method"), text("POST"));
    assert_eq!(attribute(&root.attributes, "http.response.status_code"), Any::IntValue(200));
    assert_eq!(attribute(&root.attributes, "hapa.request_id"), text("asked-with-a-trace"));
    assert_eq!(attribute(&collector.resource(), "service.name"), text("hapa"));

    let request = by_name["request"];
    assert_eq!(request.parent_span_id, root.span_id);
    for stage in ["queue", "prefill", "decode", "post_processing", "model_loading", "prompt"] {
        let span = by_name.get(stage).unwrap_or_else(|| panic!("no {stage} in {spans:?}"));
        assert_eq!(span.parent_span_id, request.span_id, "{stage}");
        assert_eq!(span.trace_id, root.trace_id, "{stage}");
        assert!(request.start_time_unix_nano <= span.start_time_unix_nano, "{stage}");
        assert!(span.end_time_unix_nano <= request.end_time_unix_nano, "{stage}");
    }
    assert_eq!(by_name["prefill_chunk"].parent_span_id, by_name["prefill"].span_id);
    assert_eq!(attribute(&by_name["decode"].attributes, "hapa.tokens"), Any::IntValue(5));
    assert!(root.start_time_unix_nano <= request.start_time_unix_nano + 1_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_decide_for_themselves_and_others_get_a_trace_of_their_own() {
    let (collector, endpoint) = Collector::start().await;
    let server = server(&endpoint, 1.0).await;
    let unsampled = format!("00-{TRACE}-{PARENT}-00");
    let answered = ask(&server, &[("traceparent", &unsampled)]).await;
    let answered = answered.header("traceparent").unwrap().to_owned();
    assert!(
        answered.starts_with(&format!("00-{TRACE}-")) && answered.ends_with("-00"),
        "{answered}"
    );
    let odd = ask(&server, &[("traceparent", "00-zero-one-01")]).await;
    let own = odd.header("traceparent").unwrap().to_owned();
    assert!(!own.contains(TRACE) && own.ends_with("-01"), "{own}");
    let refused = server.post("/api/v1/code/generate", &json!({ "user_question": "" })).await;
    assert_eq!(refused.status, 422);
    server.stopped().await;

    let spans = collector.spans();
    let roots: Vec<&Span> = spans.iter().filter(|span| span.parent_span_id.is_empty()).collect();
    assert_eq!(roots.len(), 2, "what its client does not want is not exported: {spans:?}");
    assert!(own.contains(&hex(&roots[0].trace_id)));
    assert_ne!(roots[0].trace_id, roots[1].trace_id);
    assert_eq!(attribute(&roots[1].attributes, "http.response.status_code"), Any::IntValue(422));
    let failed = roots.iter().filter_map(|span| span.status.as_ref());
    assert!(failed.map(|status| status.code).all(|code| code != SpanStatus::Error as i32));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ratio_of_zero_exports_nothing_and_a_collector_that_is_away_harms_nobody() {
    let (collector, endpoint) = Collector::start().await;
    let none = server(&endpoint, 0.0).await;
    assert_eq!(ask(&none, &[]).await.status, 200);
    none.stopped().await;
    assert!(collector.spans().is_empty());

    // A port that nobody listens on.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let alone = server(&format!("http://{free}"), 1.0).await;
    assert_eq!(ask(&alone, &[]).await.status, 200);
    alone.stopped().await;
}
