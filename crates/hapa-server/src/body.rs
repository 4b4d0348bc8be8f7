//! Reading request bodies: bounded in size and time, and with errors that name the field.

use std::pin::pin;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use bytes::{Bytes, BytesMut};
use futures_util::future::poll_immediate;
use hapa_metrics::labels::Rejection;
use hapa_metrics::names;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use crate::problem::Problem;
use crate::state::AppState;

/// How much of a body that is too large is read and dropped, and for how long.
const DRAINED_BYTES: usize = 32 << 20;
const DRAINED_WITHIN: Duration = Duration::from_secs(2);

/// A JSON body.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<AppState> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        require_json(&request)?;
        let limit = state.options().max_body_bytes;
        let expects = request.headers().contains_key(header::EXPECT);
        let declared = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let is_too_large = declared.is_some_and(|bytes| bytes > limit as u64);
        if is_too_large && expects {
            // It waits for this word before it sends anything.
            return Err(Problem::too_large(limit));
        }
        let mut body = request.into_body();
        if is_too_large {
            drain(&mut body).await;
            return Err(Problem::too_large(limit));
        }
        let read = {
            let mut read = pin!(read_all(&mut body, limit));
            // Most bodies came with their heads and need no timer.
            match poll_immediate(&mut read).await {
                Some(read) => Ok(read),
                None => tokio::time::timeout(state.options().body_timeout, read).await,
            }
        };
        let bytes = match read {
            Ok(Ok(Some(bytes))) => bytes,
            Ok(Ok(None)) => {
                drain(&mut body).await;
                return Err(Problem::too_large(limit));
            }
            Ok(Err(problem)) => return Err(problem),
            Err(_) => {
                return Err(Problem::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "REQUEST_TIMEOUT",
                    "the request body did not arrive in time",
                ));
            }
        };
        parse(&bytes)
            .map(Self)
            .inspect_err(|_| names::REJECTED_TOTAL.with(Rejection::Validation).increment(1))
    }
}

/// Only JSON by its name: a web page can send other types to loopback without asking.
fn require_json(request: &Request) -> Result<(), Problem> {
    let essence = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(str::trim);
    let is_json =
        essence.and_then(|essence| essence.split_once('/')).is_some_and(|(kind, name)| {
            // `json`, or another format written in it, as `geo+json`.
            let syntax = name.rsplit_once('+').map_or(name, |(_, syntax)| syntax);
            kind.eq_ignore_ascii_case("application") && syntax.eq_ignore_ascii_case("json")
        });
    match essence {
        _ if is_json => Ok(()),
        found => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UNSUPPORTED_MEDIA_TYPE",
            format!("the content type is {}; send application/json", found.unwrap_or("missing")),
        )),
    }
}

/// The whole body; `None` when it is longer than the limit, with the rest still to come.
async fn read_all(body: &mut Body, limit: usize) -> Result<Option<Bytes>, Problem> {
    let mut whole = BytesMut::new();
    let mut first = Bytes::new();
    while let Some(data) = next_data(body).await {
        let data = data.map_err(|error| {
            let message = format!("the request body could not be read: {error}");
            Problem::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", message)
        })?;
        if first.len() + whole.len() + data.len() > limit {
            return Ok(None);
        }
        // Most bodies come in one piece, which needs no copy.
        if first.is_empty() && whole.is_empty() {
            first = data;
            continue;
        }
        if whole.is_empty() {
            whole.extend_from_slice(&std::mem::take(&mut first));
        }
        whole.extend_from_slice(&data);
    }
    Ok(Some(if whole.is_empty() { first } else { whole.freeze() }))
}

/// Reads the rest of a body that nobody wants, within bounds. A client that still sends would see its connection reset, and never
/// the answer.
async fn drain(body: &mut Body) {
    let rest = async {
        let mut left = DRAINED_BYTES;
        while let Some(Ok(data)) = next_data(body).await {
            match left.checked_sub(data.len()) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    let _ = tokio::time::timeout(DRAINED_WITHIN, rest).await;
}

async fn next_data(body: &mut Body) -> Option<Result<Bytes, axum::Error>> {
    loop {
        match body.frame().await? {
            Ok(frame) => match frame.into_data() {
                Ok(data) => return Some(Ok(data)),
                // Trailers say nothing here.
                Err(_) => continue,
            },
            Err(error) => return Some(Err(error)),
        }
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        Problem::invalid(
            "body",
            format!("not UTF-8: byte {} begins no character", error.valid_up_to()),
        )
    })?;
    // serde would take an array as a struct's fields in order.
    if text.trim_start().starts_with('[') {
        return Err(Problem::invalid("body", "is an array; expected an object"));
    }
    // Where it went wrong is looked for only then: keeping the path costs as much as reading.
    if let Ok(value) = serde_json::from_str(text) {
        return Ok(value);
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        // A missing field is reported on its parent; its name is in the message.
        let field = match (inner.classify(), path.as_str()) {
            (serde_json::error::Category::Data, ".") => {
                missing_field(&inner).unwrap_or("body").to_owned()
            }
            (serde_json::error::Category::Data, path) => match missing_field(&inner) {
                Some(missing) => format!("{path}.{missing}"),
                None => path.to_owned(),
            },
            _ => "body".to_owned(),
        };
        Problem::invalid(field, inner.to_string())
    })?;
    json.end().map_err(|error| Problem::invalid("body", error.to_string()))?;
    Ok(value)
}

fn missing_field(error: &serde_json::Error) -> Option<&'static str> {
    // serde gives no other access to the name; the fields' names are few and fixed.
    const REQUIRED: [&str; 11] = [
        "user_question",
        "requests",
        "code_snippets",
        "prefix",
        "code",
        "messages",
        "prompt",
        "content",
        "tokens",
        "role",
        "text",
    ];
    let text = error.to_string();
    let name = text.strip_prefix("missing field `")?.split('`').next()?;
    REQUIRED.into_iter().find(|field| *field == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Sample {
        #[serde(rename = "prefix")]
        _prefix: String,
        #[serde(default, rename = "max_tokens")]
        _max_tokens: u32,
    }

    fn field(bytes: &[u8]) -> String {
        parse::<Sample>(bytes).unwrap_err().field.unwrap()
    }

    #[test]
    fn the_field_is_named() {
        assert!(parse::<Sample>(br#"{"prefix":"a","unknown":1}"#).is_ok());
        assert_eq!(field(br#"{"prefix":1}"#), "prefix");
        assert_eq!(field(br#"{"prefix":"a","max_tokens":-1}"#), "max_tokens");
        assert_eq!(field(br#"{"prefix":"a","max_tokens":1.5}"#), "max_tokens");
        assert_eq!(field(b"{}"), "prefix");
        assert_eq!(field(b"{"), "body");
        assert_eq!(field(b""), "body");
        assert_eq!(field(b"\xff\xfe"), "body");
        assert_eq!(field(br#"{"prefix":"a"} trailing"#), "body");
        assert_eq!(field(&b"[".repeat(10_000)), "body");
    }
}
