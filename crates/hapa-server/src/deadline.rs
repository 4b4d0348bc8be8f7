//! How long a request may take: what its `x-request-timeout` says, and what the server allows.

use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};

use crate::problem::Problem;
use crate::request_id::RequestId;
use crate::state::AppState;

pub(crate) const X_REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");
/// Longest time that can be asked for.
const A_DAY: f64 = 86_400.0;

/// The deadline of a request, where it has one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(pub(crate) Option<Instant>);

impl FromRequestParts<AppState> for Deadline {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let arrived = parts.extensions.get::<RequestId>().map_or_else(Instant::now, |id| id.2);
        deadline(&parts.headers, state.options().request_timeout, arrived).map(Self)
    }
}

/// When a request that arrived at `arrived` must be answered, if there is such a time. The sooner of the two counts.
///
/// # Errors
/// For a header that is no time.
pub(crate) fn deadline(
    headers: &HeaderMap,
    allowed: Option<Duration>,
    arrived: Instant,
) -> Result<Option<Instant>, Problem> {
    let asked = match headers.get(&X_REQUEST_TIMEOUT) {
        Some(value) => Some(seconds(value.to_str().unwrap_or("(not text)"))?),
        None => None,
    };
    let time = asked.into_iter().chain(allowed).min();
    Ok(time.and_then(|time| arrived.checked_add(time)))
}

fn seconds(text: &str) -> Result<Duration, Problem> {
    // `f64` would also take `inf`, `1e3` and signs.
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let seconds = text.parse::<f64>().ok().filter(|_| is_plain);
    match seconds.filter(|&seconds| seconds > 0.0 && seconds <= A_DAY) {
        Some(seconds) => Ok(Duration::from_secs_f64(seconds)),
        None => {
            let shown: String = text.chars().take(50).collect();
            let problem = format!(
                "is `{shown}`; seconds above 0 and at most 86400 are allowed, such as 30 or 2.5"
            );
            Err(Problem::invalid(X_REQUEST_TIMEOUT.as_str(), problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn of(text: &str, allowed: Option<u64>) -> Result<Option<Duration>, String> {
        let mut headers = HeaderMap::new();
        if !text.is_empty() {
            headers.insert(X_REQUEST_TIMEOUT, HeaderValue::from_bytes(text.as_bytes()).unwrap());
        }
        let now = Instant::now();
        let deadline = deadline(&headers, allowed.map(Duration::from_secs), now);
        deadline.map(|at| at.map(|at| at - now)).map_err(|problem| problem.field.unwrap())
    }

    #[test]
    fn times_are_seconds_with_decimals() {
        assert_eq!(of("", None), Ok(None));
        assert_eq!(of("2.5", None), Ok(Some(Duration::from_millis(2_500))));
        assert_eq!(of("30", None), Ok(Some(Duration::from_secs(30))));
        assert_eq!(of(".5", None), Ok(Some(Duration::from_millis(500))));
        let bad = [
            "0", "-1", "abc", "1e3", "inf", "NaN", "1 s", "86401", "1.2.3", ".", "+1", "1,5",
            "\u{e9}",
        ];
        for text in bad {
            assert_eq!(of(text, None), Err("x-request-timeout".to_owned()), "{text}");
        }
    }

    #[test]
    fn the_sooner_of_both_counts() {
        assert_eq!(of("", Some(60)), Ok(Some(Duration::from_secs(60))));
        assert_eq!(of("10", Some(60)), Ok(Some(Duration::from_secs(10))));
        assert_eq!(of("100", Some(60)), Ok(Some(Duration::from_secs(60))));
    }
}
