//! Reading query strings, with errors that name the parameter.

use std::error::Error;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::problem::Problem;

/// The parameters of a query.
pub(crate) struct QueryString<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for QueryString<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let Query(query) = Query::try_from_uri(&parts.uri).map_err(|rejection| {
            // Below what axum says of it: `seconds: invalid digit found in string`.
            let text =
                rejection.source().map_or_else(|| rejection.body_text(), ToString::to_string);
            let (field, message) = text.split_once(": ").unwrap_or(("query", &text));
            Problem::invalid(field, message)
        })?;
        Ok(Self(query))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Sample {
        seconds: Option<u64>,
    }

    async fn read(uri: &str) -> Result<Option<u64>, Problem> {
        let (mut parts, ()) = Request::get(uri).body(()).unwrap().into_parts();
        let query = QueryString::<Sample>::from_request_parts(&mut parts, &()).await;
        query.map(|QueryString(sample)| sample.seconds)
    }

    #[tokio::test]
    async fn the_parameter_is_named() {
        assert_eq!(read("/x").await, Ok(None));
        assert_eq!(read("/x?seconds=3&other=%41").await, Ok(Some(3)));
        for uri in ["/x?seconds=", "/x?seconds=-1", "/x?seconds=many"] {
            let problem = read(uri).await.unwrap_err();
            assert_eq!(problem.field.as_deref(), Some("seconds"), "{uri}");
            assert!(problem.message.starts_with("seconds: "), "{}", problem.message);
        }
        let twice = read("/x?seconds=1&seconds=2").await.unwrap_err();
        assert_eq!(twice.message, "query: duplicate field `seconds`");
    }
}
