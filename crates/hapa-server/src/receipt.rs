//! The receipt of an answer as response headers, and the response that carries it.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;
use hapa_service::{Answer, CacheReport};
use serde::Serialize;

use crate::edge::{Millis, SERVER_TIMING};
use crate::problem::Problem;

pub(crate) const X_HAPA_CACHE: HeaderName = HeaderName::from_static("x-hapa-cache");

/// Headers of an answer whose end is not known yet.
pub(crate) fn opening(report: &CacheReport) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(X_HAPA_CACHE, HeaderValue::from_static(report.outcome.as_str()));
    headers
}

/// A whole answer in the shape of its API.
///
/// # Errors
/// [`Problem::internal`] for a body that is no JSON.
pub(crate) fn respond(answer: &Answer, body: &impl Serialize) -> Result<Response, Problem> {
    // Bodies hold the text once or twice. Room for it is made at once, not by doubling.
    let mut bytes = Vec::with_capacity(1024 + 2 * answer.text.len());
    serde_json::to_writer(&mut bytes, body)
        .map_err(|error| Problem::internal(format!("the answer could not be written: {error}")))?;
    let mut response = Response::new(Body::from(bytes));
    let headers = response.headers_mut();
    *headers = whole(answer);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Headers of a whole answer.
fn whole(answer: &Answer) -> HeaderMap {
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
        text.push_str(&format!(", {name};dur={}", Millis(time)));
    }
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert(SERVER_TIMING, value);
    }
    headers
}
