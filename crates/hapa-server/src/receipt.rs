//! The receipt of an answer as response headers.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use hapa_service::{Answer, CacheReport};

use crate::edge::SERVER_TIMING;

pub(crate) const X_HAPA_CACHE: HeaderName = HeaderName::from_static("x-hapa-cache");

/// Headers of an answer whose end is not known yet.
pub(crate) fn opening(report: &CacheReport) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(X_HAPA_CACHE, HeaderValue::from_static(report.outcome.as_str()));
    headers
}

/// Headers of a whole answer.
pub(crate) fn whole(answer: &Answer) -> HeaderMap {
    let mut headers = opening(&answer.cache);
    let timings = &answer.timings;
    let stages = [
        ("load", timings.model_loading),
        ("queue", timings.queue),
        ("prefill", timings.prefill),
        ("decode", timings.decode),
    ];
    let mut text = format!("cache;desc={}", answer.cache.outcome);
    for (name, time) in stages.into_iter().filter(|(_, time)| !time.is_zero()) {
        text.push_str(&format!(", {name};dur={:.3}", time.as_secs_f64() * 1e3));
    }
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert(SERVER_TIMING, value);
    }
    headers
}
