//! A request as a span, and its stages as the spans below it.

use std::time::{Duration, SystemTime};

use axum::http::HeaderMap;
use hapa_profiler::{Stage, Trace, TraceCollector};
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use super::{OtlpOptions, export};
use crate::error::ServerError;

/// Most stages of a request that become spans. Kernels by layer are for Perfetto, not for a collector.
const MOST_STAGES: usize = 256;

/// Makes spans of requests.
#[derive(Debug, Clone)]
pub(crate) struct Tracing {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct RequestSpan {
    tracer: SdkTracer,
    /// Holds the span.
    context: Context,
    traces: TraceCollector,
}

impl Tracing {
    /// Begins to export, where there is an endpoint.
    ///
    /// # Errors
    /// [`ServerError::BadOption`] for an endpoint that is none.
    pub(crate) fn start(options: &OtlpOptions) -> Result<Option<Self>, ServerError> {
        let Some(endpoint) = &options.endpoint else { return Ok(None) };
        let provider = export::provider(endpoint, options).map_err(|error| {
            let problem = format!("is `{endpoint}`, which cannot be used: {error}");
            ServerError::BadOption { option: "otlp.endpoint", problem }
        })?;
        let tracer = provider.tracer("hapa");
        Ok(Some(Self { provider, tracer }))
    }

    /// The span of a request by method and route, below the one that its headers name. There always is one.
    pub(crate) fn begin(
        &self,
        (method, route): (&str, &'static str),
        headers: &HeaderMap,
        traces: &TraceCollector,
    ) -> Option<RequestSpan> {
        let parent = TraceContextPropagator::new()
            .extract_with_context(&Context::new(), &HeaderExtractor(headers));
        let attributes = [
            KeyValue::new("http.request.method", method.to_owned()),
            KeyValue::new("http.route", route),
        ];
        let span = self
            .tracer
            .span_builder(format!("{method} {route}"))
            .with_kind(SpanKind::Server)
            .with_attributes(attributes)
            .start_with_context(&self.tracer, &parent);
        let context = parent.with_span(span);
        Some(RequestSpan { tracer: self.tracer.clone(), context, traces: traces.clone() })
    }

    /// Exports what is left; blocks up to five seconds.
    pub(crate) fn shut_down(&self) {
        if let Err(error) = self.provider.shutdown() {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

impl RequestSpan {
    /// Names the span in the headers of the answer.
    pub(crate) fn propagate(&self, headers: &mut HeaderMap) {
        TraceContextPropagator::new().inject_context(&self.context, &mut HeaderInjector(headers));
    }

    /// The request is over.
    pub(crate) fn end(self, status: u16, request_id: &str) {
        let span = self.context.span();
        if span.is_recording() {
            span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
            span.set_attribute(KeyValue::new("hapa.request_id", request_id.to_owned()));
            if let Some(trace) = self.traces.get(request_id) {
                self.add_stages(&trace);
            }
        }
        if status >= 500 {
            span.set_status(Status::error(""));
        }
        span.end();
    }

    /// Adds the stages as they nest. Each lane, a part of a batch, is a chain of its own.
    fn add_stages(&self, trace: &Trace) {
        let since_epoch = Duration::try_from_secs_f64(trace.started_unix_seconds());
        let began = SystemTime::UNIX_EPOCH + since_epoch.unwrap_or_default();
        let mut stages = trace.stages();
        if stages.len() > MOST_STAGES {
            let left_out = i64::try_from(stages.len() - MOST_STAGES).unwrap_or(i64::MAX);
            self.context.span().set_attribute(KeyValue::new("hapa.stages_left_out", left_out));
            stages.truncate(MOST_STAGES);
        }
        let mut open: Vec<(Context, Duration, u32)> = Vec::new();
        for stage in stages {
            let (start, end) = (stage.start, stage.start + stage.duration);
            // A stage that ends where the next begins does not hold it.
            while open.pop_if(|(_, until, lane)| *until <= start || *lane != stage.lane).is_some() {
            }
            let parent = open.last().map_or(&self.context, |(context, ..)| context);
            let lane = stage.lane;
            let span = self
                .tracer
                .span_builder(stage.name.clone())
                .with_start_time(began + start)
                .with_attributes(attributes(stage))
                .start_with_context(&self.tracer, parent);
            let context = parent.with_span(span);
            context.span().end_with_timestamp(began + end);
            open.push((context, end, lane));
        }
    }
}

fn attributes(stage: Stage) -> impl Iterator<Item = KeyValue> {
    stage.args.into_iter().map(|(key, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let value = match text.parse::<i64>() {
            Ok(number) => Value::from(number),
            Err(_) => Value::from(text),
        };
        KeyValue::new(format!("hapa.{key}"), value)
    })
}
