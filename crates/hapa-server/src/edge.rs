//! What happens to every request, whatever its route: an id, host check, panics caught, errors in the right shape,
//! headers, metrics and the response-time log; inside of it, compression, other origins, keys.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::FutureExt;
use hapa_metrics::labels::{self, Endpoint, Rejection, Status};
use hapa_metrics::names;
use hapa_profiler::ResponseTimeLogger;
use hyper::body::{Frame, SizeHint};
use serde_json::{Value, json};

use crate::compress::compress;
use crate::conn::OverTls;
use crate::life::Stage;
use crate::otlp::RequestSpan;
use crate::problem::{Dialect, Problem};
use crate::recent::{RecentRequest, RecentRequests};
use crate::request_id::RequestId;
use crate::state::{AppState, unix_seconds, unix_time};

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The same where Anthropic's clients look for it.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
pub(crate) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// Headers of every response that has no other word on the matter: nothing here is for frames, caches between here and
/// the client, other origins or guesses of its type.
const GUARDS: [(HeaderName, HeaderValue); 6] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    ),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// The outermost of HAPA's layers.
pub(crate) async fn edge(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let id = state.ids().of(request.headers().get(&X_REQUEST_ID), began);
    let endpoint = match request.extensions().get::<MatchedPath>() {
        Some(matched) => Endpoint::of(matched.as_str()),
        None => Endpoint::UNMATCHED,
    };
    let path = request.uri().path().to_owned();
    let mut record =
        Record::begin(request.method(), endpoint, began, state.response_times().clone());
    record.id.clone_from(&id.0);
    // Whoever only looks, as the web page does each second, would push out those who asked for something.
    record.recent = (*request.method() == Method::POST).then(|| state.recent().clone());
    // Where keys are needed a web page has none, whatever name it came by.
    let host = match state.needs_keys() {
        true => Ok(()),
        false => check_host(request.uri(), request.headers(), &state.options().allowed_hosts),
    };
    if record.recent.is_some()
        && let Some(tracing) = state.tracing()
    {
        let what = (labels::Method::of(request.method().as_str()).as_str(), endpoint.as_str());
        record.span = tracing.begin(what, request.headers(), state.service().traces());
    }
    request.extensions_mut().insert(id.clone());
    let hsts = wants_hsts(&request);
    let response = match host {
        Err(problem) => problem.into_response(),
        Ok(()) => tokio::select! {
            biased;
            answer = AssertUnwindSafe(compress(&state, request, next)).catch_unwind() => answer.unwrap_or_else(|panic| {
                note_panic(&id.0, &*panic);
                let message = "an internal error happened; it was logged under the request id";
                Problem::internal(message).into_response()
            }),
            () = state.life().at_least(Stage::Ending) => Problem::shutting_down().into_response(),
        },
    };
    let mut response = match problem_of(&response) {
        Some(problem) => {
            count_refusal(&problem);
            render(&problem, response.headers(), &path, &id)
        }
        None => response,
    };
    finish_headers(response.headers_mut(), &id, began);
    if Dialect::of(&path) == Dialect::Anthropic
        && let Some(id) = response.headers().get(&X_REQUEST_ID).cloned()
    {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    if let Some(span) = &record.span {
        span.propagate(response.headers_mut());
    }
    if hsts {
        response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, HSTS);
    }
    record.status = response.status();
    response.map(|body| Body::new(Recorded { body, record }))
}

fn finish_headers(headers: &mut HeaderMap, id: &RequestId, began: Instant) {
    if let Ok(id) = HeaderValue::from_str(&id.0) {
        headers.insert(X_REQUEST_ID, id);
    }
    // At once what follows, and a few of the handler's.
    headers.reserve(GUARDS.len() + 2);
    let total = Millis(began.elapsed());
    let timing = match headers.get(&SERVER_TIMING).and_then(|value| value.to_str().ok()) {
        Some(stages) => format!("{stages}, total;dur={total}"),
        None => format!("total;dur={total}"),
    };
    if let Ok(timing) = HeaderValue::from_str(&timing) {
        headers.insert(SERVER_TIMING, timing);
    }
    for (name, value) in GUARDS {
        headers.entry(name).or_insert(value);
    }
}

/// A time in milliseconds with three digits after the point, as `Server-Timing` has it.
pub(crate) struct Millis(pub(crate) Duration);

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let micros = self.0.as_micros();
        write!(f, "{}.{:03}", micros / 1000, micros % 1000)
    }
}

/// Why a request was not answered: what the handler said, or that it never got there, as with a path whose escapes
/// are no UTF-8.
fn problem_of(response: &Response) -> Option<Problem> {
    if let Some(problem) = response.extensions().get::<Problem>() {
        return Some(problem.clone());
    }
    let kind = response.headers().get(header::CONTENT_TYPE)?.to_str().ok()?;
    let is_axums = response.status().is_client_error() && kind.starts_with("text/plain");
    let message = "the path or the query could not be read";
    is_axums.then(|| Problem::new(response.status(), "BAD_REQUEST", message))
}

/// Whether browsers should never again come unencrypted. Not for loopback names, which other programs of the machine have too.
fn wants_hsts(request: &Request) -> bool {
    let authority = request.uri().authority().map(Authority::as_str);
    let host = authority.or_else(|| request.headers().get(header::HOST)?.to_str().ok());
    let is_public = host
        .map(host_name)
        .is_some_and(|name| !is_loopback(name) && name.parse::<std::net::IpAddr>().is_err());
    is_public && request.extensions().get::<OverTls>().is_some()
}

/// A problem in the shape of the API that was asked. `Allow`, what is left of a rate and what pages may read stay.
fn render(problem: &Problem, headers: &HeaderMap, path: &str, id: &RequestId) -> Response {
    let dialect = Dialect::of(path);
    let body = match dialect {
        Dialect::Hapa => hapa_error(problem, path, id),
        Dialect::OpenAi => openai_error(problem),
        Dialect::Anthropic => anthropic_error(problem, id),
    };
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = problem.status_in(dialect);
    let kept = |name: &HeaderName| {
        [header::ALLOW, header::VARY].contains(name)
            || ["x-ratelimit-", "access-control-"]
                .iter()
                .any(|kind| name.as_str().starts_with(kind))
    };
    for (name, value) in headers.iter().filter(|(name, _)| kept(name)) {
        response.headers_mut().insert(name.clone(), value.clone());
    }
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if problem.status == StatusCode::UNAUTHORIZED {
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"hapa\""));
    }
    if let Some(seconds) = problem.retry_after_seconds() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn hapa_error(problem: &Problem, path: &str, id: &RequestId) -> Value {
    let mut details = json!({
        "request_path": path,
        "timestamp": rfc3339(unix_seconds()),
        "request_id": id.0,
    });
    if let Some(field) = &problem.field {
        details["field"] = json!(field);
    }
    if let Some(seconds) = problem.retry_after_seconds() {
        details["retry_after_seconds"] = json!(seconds);
    }
    json!({
        "status": "error",
        "error_message": problem.message,
        "error_code": problem.code,
        "error_details": details,
    })
}

/// OpenAI's error object; also sent as an event of a stream.
pub(crate) fn openai_error(problem: &Problem) -> Value {
    json!({
        "error": {
            "message": problem.message,
            "type": problem.openai_type(),
            "param": problem.field,
            "code": problem.openai_code(),
        }
    })
}

/// Anthropic's error object; also sent as an event of a stream.
pub(crate) fn anthropic_error(problem: &Problem, id: &RequestId) -> Value {
    json!({
        "type": "error",
        "error": { "type": problem.anthropic_type(), "message": problem.message },
        "request_id": id.0,
    })
}

/// What was turned away here and never reached the service, which counts its own refusals.
fn count_refusal(problem: &Problem) {
    let reason = match problem.status {
        StatusCode::PAYLOAD_TOO_LARGE => Rejection::PayloadTooLarge,
        StatusCode::UNAUTHORIZED => Rejection::Unauthorized,
        StatusCode::FORBIDDEN => Rejection::Forbidden,
        StatusCode::REQUEST_TIMEOUT => Rejection::Deadline,
        StatusCode::TOO_MANY_REQUESTS => Rejection::RateLimited,
        _ => return,
    };
    names::REJECTED_TOTAL.with(reason).increment(1);
}

fn note_panic(request_id: &str, panic: &(dyn Any + Send)) {
    tracing::error!(request_id, panic = panic_text(panic), "a handler panicked");
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("(no message)")
}

/// A web page can make a name of its own resolve to loopback and then read what this server answers. It cannot
/// make its requests carry a loopback name, so only those are served, and names that were configured.
fn check_host(uri: &Uri, headers: &HeaderMap, allowed: &[String]) -> Result<(), Problem> {
    let authority = match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => headers.get(header::HOST).map(|host| host.to_str().unwrap_or("(not text)")),
    };
    // Without a name there is nothing that a page could have forged (HTTP/1.0).
    let Some(authority) = authority else { return Ok(()) };
    let name = host_name(authority);
    if is_loopback(name) || allowed.iter().any(|host| host.eq_ignore_ascii_case(name)) {
        return Ok(());
    }
    let shown: String = name.chars().take(100).collect();
    let message = format!(
        "requests for the host `{shown}` are not served; add it to the server's allowed hosts if a proxy sends it"
    );
    Err(Problem::new(StatusCode::FORBIDDEN, "FORBIDDEN", message))
}

fn is_loopback(name: &str) -> bool {
    let tail = name.len().checked_sub(".localhost".len()).and_then(|start| name.get(start..));
    name.eq_ignore_ascii_case("localhost")
        || tail.is_some_and(|tail| tail.eq_ignore_ascii_case(".localhost"))
        || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The host without user, port and brackets.
fn host_name(authority: &str) -> &str {
    let host = authority.rsplit('@').next().unwrap_or(authority);
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    host.split(':').next().unwrap_or(host)
}

/// `2026-01-31T23:59:59Z` for seconds since 1970 (Howard Hinnant's `civil_from_days`).
pub(crate) fn rfc3339(unix_seconds: u64) -> String {
    let days = unix_seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let second = unix_seconds % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

/// Measures one request to the end of its response's body, or to the moment its client went away (status 499, as
/// nginx has it).
struct Record {
    method: Method,
    endpoint: Endpoint,
    began: Instant,
    status: StatusCode,
    id: String,
    log: ResponseTimeLogger,
    recent: Option<RecentRequests>,
    span: Option<RequestSpan>,
}

impl Record {
    fn begin(method: &Method, endpoint: Endpoint, began: Instant, log: ResponseTimeLogger) -> Self {
        names::API_REQUESTS_IN_FLIGHT.handle().increment(1.0);
        let status = StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST);
        Self {
            method: method.clone(),
            endpoint,
            began,
            status,
            id: String::new(),
            log,
            recent: None,
            span: None,
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        let method = labels::Method::of(self.method.as_str());
        names::API_REQUESTS_IN_FLIGHT.handle().decrement(1.0);
        // The id becomes an exemplar: from a slow bucket to the trace of a request in it.
        hapa_metrics::with_request_id(&self.id, || {
            names::API_REQUEST_DURATION_SECONDS
                .with((method, self.endpoint))
                .record(took.as_secs_f64());
        });
        names::API_REQUESTS_TOTAL
            .with((method, self.endpoint, Status(self.status.as_u16())))
            .increment(1);
        self.log.log(method.as_str(), self.endpoint.as_str(), took);
        if let Some(span) = self.span.take() {
            span.end(self.status.as_u16(), &self.id);
        }
        if let Some(recent) = &self.recent {
            recent.push(RecentRequest {
                id: std::mem::take(&mut self.id),
                endpoint: self.endpoint,
                status: self.status.as_u16(),
                ended_unix_seconds: unix_time().as_secs_f64(),
                took,
            });
        }
    }
}

/// A body that takes its request's [`Record`] along.
struct Recorded {
    body: Body,
    record: Record,
}

impl hyper::body::Body for Recorded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Self { body, record } = &mut *self;
        // A panic would take the connection along, and with HTTP/2 the answers beside this one.
        let polled = AssertUnwindSafe(|| Pin::new(body).poll_frame(cx));
        std::panic::catch_unwind(polled).unwrap_or_else(|panic| {
            note_panic(&record.id, &*panic);
            Poll::Ready(Some(Err(axum::Error::new("an internal error happened"))))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(authority: &str, allowed: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(authority).unwrap());
        let allowed: Vec<String> = allowed.iter().map(|&host| host.to_owned()).collect();
        check_host(&Uri::from_static("/x"), &headers, &allowed).is_ok()
    }

    #[test]
    fn only_loopback_names_and_configured_ones() {
        for ok in [
            "localhost",
            "LOCALHOST:8000",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:8000",
            "a.localhost:3",
        ] {
            assert!(host(ok, &[]), "{ok}");
        }
        for bad in [
            "evil.example",
            "localhost.evil.example:8000",
            "127.0.0.1.evil.example",
            "192.168.0.1",
            "",
            "user@evil",
        ] {
            assert!(!host(bad, &[]), "{bad}");
        }
        assert!(host("Hapa.Example:443", &["hapa.example"]));
        assert!(check_host(&Uri::from_static("/x"), &HeaderMap::new(), &[]).is_ok());
        assert!(
            check_host(&Uri::from_static("http://evil.example/x"), &HeaderMap::new(), &[]).is_err()
        );
    }

    #[test]
    fn times_of_stages() {
        let shown = |micros| Millis(Duration::from_micros(micros)).to_string();
        assert_eq!(
            [shown(0), shown(7), shown(1_050), shown(12_345_678)],
            ["0.000", "0.007", "1.050", "12345.678"]
        );
    }

    #[test]
    fn timestamps() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_798_761_599), "2026-12-31T23:59:59Z");
    }
}
