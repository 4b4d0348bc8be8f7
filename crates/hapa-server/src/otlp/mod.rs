//! Spans of requests for OpenTelemetry: W3C trace context in and out, export by OTLP.
//!
//! A request that asks for work becomes a span of the kind server, a child of the `traceparent` that it brought; the answer's
//! `traceparent` names it. The stages of its timeline become the spans below. The feature `otlp` is needed; without it there is
//! nothing to begin.

#[cfg(feature = "otlp")]
mod export;
#[cfg(feature = "otlp")]
mod spans;

use crate::error::ServerError;

/// Where spans go.
#[derive(Debug, Clone, PartialEq)]
pub struct OtlpOptions {
    /// A collector that takes OTLP over HTTP, such as `http://localhost:4318`; without one no spans are made. Needs the
    /// feature `otlp`. Headers, such as those that prove who sends, come from the variable `OTEL_EXPORTER_OTLP_HEADERS`, as
    /// OpenTelemetry has it.
    pub endpoint: Option<String>,
    /// The part of requests that are exported, of those that bring no trace context which says so itself.
    pub sample_ratio: f64,
}

impl Default for OtlpOptions {
    /// No spans; once there is an endpoint, those of all requests.
    fn default() -> Self {
        Self { endpoint: None, sample_ratio: 1.0 }
    }
}

impl OtlpOptions {
    pub(crate) fn check(&self) -> Result<(), ServerError> {
        let refused = |option, problem| Err(ServerError::BadOption { option, problem });
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            let problem = format!("is {}; a part of 1 is needed", self.sample_ratio);
            return refused("otlp.sample_ratio", problem);
        }
        match self.endpoint.as_deref() {
            Some(url) if !url.starts_with("http://") && !url.starts_with("https://") => {
                refused("otlp.endpoint", format!("is `{url}`; an http or https address is needed"))
            }
            Some(_) if !cfg!(feature = "otlp") => {
                refused("otlp.endpoint", "needs a `hapa` built with `--features otlp`".to_owned())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(feature = "otlp")]
pub(crate) use spans::{RequestSpan, Tracing};

/// Without the feature there is none.
#[cfg(not(feature = "otlp"))]
pub(crate) use absent::{RequestSpan, Tracing};

#[cfg(not(feature = "otlp"))]
mod absent {
    use axum::http::HeaderMap;
    use hapa_profiler::TraceCollector;

    use super::OtlpOptions;
    use crate::error::ServerError;

    #[derive(Debug, Clone)]
    pub(crate) enum Tracing {}

    #[derive(Debug)]
    pub(crate) enum RequestSpan {}

    impl Tracing {
        pub(crate) fn start(_: &OtlpOptions) -> Result<Option<Self>, ServerError> {
            Ok(None)
        }

        pub(crate) fn begin(
            &self,
            _: (&str, &'static str),
            _: &HeaderMap,
            _: &TraceCollector,
        ) -> Option<RequestSpan> {
            match *self {}
        }

        pub(crate) fn shut_down(&self) {
            match *self {}
        }
    }

    impl RequestSpan {
        pub(crate) fn propagate(&self, _: &mut HeaderMap) {
            match *self {}
        }

        pub(crate) fn end(self, _: u16, _: &str) {
            match self {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_lead_nowhere_are_refused() {
        assert!(OtlpOptions::default().check().is_ok());
        let refused = |endpoint: &str, sample_ratio| {
            let options = OtlpOptions { endpoint: Some(endpoint.to_owned()), sample_ratio };
            options.check().unwrap_err().to_string()
        };
        assert!(refused("localhost:4318", 1.0).contains("http or https"));
        assert!(refused("http://localhost:4318", 2.0).contains("otlp.sample_ratio"));
        #[cfg(not(feature = "otlp"))]
        assert!(refused("http://localhost:4318", 1.0).contains("--features otlp"));
    }
}
