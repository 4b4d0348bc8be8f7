//! What pages of other origins may do: nothing, until their origins are configured.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use tower::{Layer, ServiceExt, service_fn};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::auth::gate;
use crate::edge::{SERVER_TIMING, X_REQUEST_ID};
use crate::receipt::X_HAPA_CACHE;
use crate::state::AppState;

/// How long a browser may remember what it was allowed.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// What a page may read beside the body.
const EXPOSED: [HeaderName; 10] = [
    X_REQUEST_ID,
    X_HAPA_CACHE,
    SERVER_TIMING,
    header::RETRY_AFTER,
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// Answers preflights and allows configured origins. Only then are keys looked at, since a preflight brings none.
pub(crate) async fn cors(state: &AppState, request: Request, next: Next) -> Response {
    let origins = &state.options().cors_origins;
    let is_preflight = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    if origins.is_empty() || (request.method() == Method::OPTIONS && !is_preflight) {
        return gate(state, request, next).await;
    }
    let gated = service_fn(move |request| {
        let (state, next) = (state.clone(), next.clone());
        async move { Ok::<_, Infallible>(gate(&state, request, next).await) }
    });
    match layer(origins).layer(gated).oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn layer(origins: &[String]) -> CorsLayer {
    let origins = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST])
        // Clients bring headers of their own, such as OpenAI's `x-stainless-*`.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED)
        .max_age(MAX_AGE)
}

/// Whether a text is an origin as browsers write them.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_origin(origin: &str) -> Result<(), String> {
    let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let plain = |host: &&str| {
        !host.is_empty()
            && host
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:[]".contains(&b))
    };
    match host.filter(plain) {
        Some(_) => Ok(()),
        None => Err(format!(
            "has `{origin}`; an origin is scheme, host and port in small letters, as https://app.example or http://localhost:3000, \
             and each must be named"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_what_browsers_send() {
        for good in ["https://app.example", "http://localhost:3000", "http://[::1]:80"] {
            assert_eq!(check_origin(good), Ok(()), "{good}");
        }
        for bad in [
            "*",
            "null",
            "app.example",
            "https://",
            "https://app.example/",
            "https://App.example",
            "ftp://x",
        ] {
            assert!(check_origin(bad).unwrap_err().contains(bad), "{bad}");
        }
    }
}
