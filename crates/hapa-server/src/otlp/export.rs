//! Sending spans to a collector.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry::KeyValue;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    ExporterBuildError, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};

use super::OtlpOptions;

/// Longest answer of a collector that is read.
const ANSWER_BYTES: u64 = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(10);

/// A provider of tracers that exports in batches, from a thread of its own.
pub(super) fn provider(
    endpoint: &str,
    options: &OtlpOptions,
) -> Result<SdkTracerProvider, ExporterBuildError> {
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        .build();
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Client(agent.into()))
        .with_endpoint(traces_url(endpoint))
        .build()?;
    let sampler = Sampler::TraceIdRatioBased(options.sample_ratio);
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name("hapa");
    }
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        // Whoever brings a trace context has decided already.
        .with_sampler(Sampler::ParentBased(Box::new(sampler)))
        .with_resource(resource.with_attribute(version).build())
        .build())
}

/// Where a collector takes traces: at the path that OTLP has for them, unless the address has a path of its own.
fn traces_url(endpoint: &str) -> String {
    let bare = endpoint.trim_end_matches('/');
    let host = bare.split_once("://").map_or(bare, |(_, rest)| rest);
    if host.contains('/') { endpoint.to_owned() } else { format!("{bare}/v1/traces") }
}

/// The project's HTTP client for the exporter.
#[derive(Debug)]
struct Client(ureq::Agent);

#[async_trait]
impl HttpClient for Client {
    /// Blocks: it is only called on the exporter's own thread.
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let response = self.0.run(Request::from_parts(parts, body.to_vec()))?;
        let (parts, mut body) = response.into_parts();
        let body = body.with_config().limit(ANSWER_BYTES).read_to_vec()?;
        Ok(Response::from_parts(parts, Bytes::from(body)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_without_a_path_gets_the_usual_one() {
        assert_eq!(traces_url("http://a:4318"), "http://a:4318/v1/traces");
        assert_eq!(traces_url("https://a/"), "https://a/v1/traces");
        assert_eq!(traces_url("https://a/otlp/v1/traces"), "https://a/otlp/v1/traces");
    }
}
