//! What stands before all handlers.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::access::Access;
use super::ring::Presented;
use crate::problem::Problem;
use crate::request_id::RequestId;
use crate::state::AppState;

/// Lets requests by that may use their route, and tells the handler who asks.
pub(crate) async fn gate(state: &AppState, mut request: Request, next: Next) -> Response {
    let access = Access::of(request.extensions().get::<MatchedPath>().map(MatchedPath::as_str));
    if access == Access::Open {
        return next.run(request).await;
    }
    let looked_up = match state.keyring() {
        Some(ring) => ring.look_up(presented(request.headers())),
        None => Presented::NotNeeded,
    };
    let caller = match looked_up {
        Presented::NotNeeded => {
            return match check_page(request.headers(), &state.options().cors_origins) {
                Ok(()) => next.run(request).await,
                Err(problem) => problem.into_response(),
            };
        }
        Presented::Bad => return unauthorized().into_response(),
        Presented::Good(caller) => caller,
    };
    if let Err(problem) = access.check(Some(&caller)) {
        return problem.into_response();
    }
    if let Some(id) = request.extensions_mut().get_mut::<RequestId>() {
        tracing::debug!(request_id = %id.0, key = %caller.record.id, "authenticated");
        id.1 = Some(Arc::clone(&caller));
    }
    let mut response = match caller.limits.take_request() {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    caller.limits.tell(response.headers_mut());
    response
}

/// Without keys whatever runs on this machine may ask, but not a web page that the browser got elsewhere: it could not read the
/// answer, and would still have the work done. Browsers say where a request comes from; other clients say nothing.
fn check_page(headers: &HeaderMap, origins: &[String]) -> Result<(), Problem> {
    let of = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let site = of(HeaderName::from_static("sec-fetch-site"));
    let is_foreign = matches!(site, Some("cross-site" | "same-site"));
    let is_allowed = of(header::ORIGIN).is_some_and(|origin| origins.iter().any(|o| o == origin));
    if !is_foreign || is_allowed {
        return Ok(());
    }
    let message = "a page of another origin may not ask; the setting server.cors_origins names those that may";
    Err(Problem::new(StatusCode::FORBIDDEN, "FORBIDDEN", message))
}

/// The same words whether a key is missing, unknown, revoked or expired: it is nobody's business which.
fn unauthorized() -> Problem {
    let message =
        "a valid API key is needed, as `Authorization: Bearer hapa_...` or `X-API-Key: hapa_...`";
    let problem = Problem::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message);
    Problem { openai_code: Some("invalid_api_key"), ..problem }
}

/// The key that a request brings: `X-API-Key`, or `Authorization` with `Bearer` or `ApiKey`.
fn presented(headers: &HeaderMap) -> Option<&str> {
    if let Some(key) = headers.get("x-api-key") {
        return key.to_str().ok().map(str::trim);
    }
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.trim().split_once(' ')?;
    let known = ["bearer", "apikey"].iter().any(|name| scheme.eq_ignore_ascii_case(name));
    known.then(|| key.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn pages_of_other_origins_may_not_ask() {
        let may = |site: &'static str, origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert("sec-fetch-site", HeaderValue::from_static(site));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            check_page(&headers, &["https://app.example".to_owned()]).is_ok()
        };
        assert!(check_page(&HeaderMap::new(), &[]).is_ok(), "no browser");
        assert!(may("none", None) && may("same-origin", Some("http://localhost:8000")));
        assert!(may("cross-site", Some("https://app.example")));
        for site in ["cross-site", "same-site"] {
            assert!(!may(site, None) && !may(site, Some("https://evil.example")), "{site}");
        }
    }

    #[test]
    fn keys_come_in_three_ways() {
        let of = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            presented(&headers).map(str::to_owned)
        };
        for (name, value) in [
            ("x-api-key", "k"),
            ("authorization", "Bearer k"),
            ("authorization", "bearer  k"),
            ("authorization", "ApiKey k"),
        ] {
            assert_eq!(of(name, value).as_deref(), Some("k"), "{value}");
        }
        for value in ["k", "Basic k", "Bearer", ""] {
            assert_eq!(of("authorization", value), None, "{value}");
        }
        assert_eq!(presented(&HeaderMap::new()), None);
    }
}
