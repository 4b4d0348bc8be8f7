//! What stands before all handlers.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, StatusCode, header};
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
    let Some(ring) = state.keyring() else { return next.run(request).await };
    let caller = match ring.look_up(presented(request.headers())) {
        Presented::NotNeeded => return next.run(request).await,
        Presented::Bad => return unauthorized().into_response(),
        Presented::Good(caller) => caller,
    };
    if !access.allows(&caller.record.scopes) {
        let message = format!(
            "the key `{}` may not do this; it takes the scope {}",
            caller.record.name,
            access.needed()
        );
        let problem = Problem::new(StatusCode::FORBIDDEN, "FORBIDDEN", message);
        return Problem { openai_code: Some("insufficient_permissions"), ..problem }
            .into_response();
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
    use axum::http::{HeaderName, HeaderValue};

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
