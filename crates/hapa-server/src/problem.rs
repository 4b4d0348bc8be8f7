//! Errors of requests, and their three shapes on the wire.
//!
//! A handler returns a [`Problem`]; it travels in the response's extensions and [`crate::edge`], which knows path and
//! request id, writes it in the shape of the API that was asked.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hapa_service::{ErrorKind, ServiceError};

/// Which API's shapes a path uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Hapa,
    OpenAi,
    Anthropic,
}

impl Dialect {
    /// The dialect of a path, known or not.
    pub(crate) fn of(path: &str) -> Self {
        if path == "/v1/messages" || path.starts_with("/v1/messages/") {
            return Self::Anthropic;
        }
        let openai =
            ["/v1/", "/infill", "/completion", "/tokenize", "/detokenize", "/props", "/slots"];
        if path == "/v1" || openai.iter().any(|prefix| path.starts_with(prefix)) {
            Self::OpenAi
        } else {
            Self::Hapa
        }
    }
}

/// Why a request was not answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    /// HAPA's `error_code`.
    pub(crate) code: &'static str,
    /// OpenAI's `code`, where it has one.
    pub(crate) openai_code: Option<&'static str>,
    pub(crate) message: String,
    pub(crate) field: Option<String>,
    pub(crate) retry_after: Option<Duration>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            openai_code: None,
            message: message.into(),
            field: None,
            retry_after: None,
        }
    }

    pub(crate) fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        let field = field.into();
        let message = format!("{field}: {}", message.into());
        Self {
            field: Some(field),
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "VALIDATION_ERROR", message)
        }
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!("the request body is larger than {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", message)
    }

    /// The answer was not whole when the server had to end.
    pub(crate) fn shutting_down() -> Self {
        let message = "the server is stopping and could not finish the answer; ask again";
        Self {
            retry_after: Some(Duration::from_secs(5)),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "SHUTTING_DOWN", message)
        }
    }

    pub(crate) fn unknown_model<'a>(asked: &str, served: impl Iterator<Item = &'a str>) -> Self {
        let served: Vec<String> = served.map(|name| format!("`{name}`")).collect();
        let are = if served.len() == 1 { "is" } else { "are" };
        let message =
            format!("the model `{asked}` is not served here; {} {are}", served.join(", "));
        Self {
            openai_code: Some("model_not_found"),
            field: Some("model".to_owned()),
            ..Self::new(StatusCode::NOT_FOUND, "MODEL_NOT_FOUND", message)
        }
    }

    /// The status: OpenAI's and Anthropic's clients expect 400 where HAPA's say 422.
    pub(crate) fn status_in(&self, dialect: Dialect) -> StatusCode {
        match (dialect, self.status) {
            (Dialect::OpenAi | Dialect::Anthropic, StatusCode::UNPROCESSABLE_ENTITY) => {
                StatusCode::BAD_REQUEST
            }
            (_, status) => status,
        }
    }

    /// Seconds for `Retry-After`, rounded up.
    pub(crate) fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after.map(|wait| (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1))
    }

    /// OpenAI's class of the error.
    pub(crate) fn openai_type(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// Anthropic's class of the error.
    pub(crate) fn anthropic_type(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            504 => "timeout_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        }
    }

    pub(crate) fn openai_code(&self) -> Option<&'static str> {
        self.openai_code.or(match self.code {
            "OVERLOADED" => Some("overloaded"),
            "SHUTTING_DOWN" => Some("shutting_down"),
            "SUPERSEDED" => Some("superseded"),
            "DEADLINE_EXCEEDED" => Some("deadline_exceeded"),
            "MODEL_LOADING" => Some("model_loading"),
            "MODEL_UNAVAILABLE" => Some("model_unavailable"),
            "PAYLOAD_TOO_LARGE" => Some("payload_too_large"),
            _ => None,
        })
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        let (status, code) = match error.kind() {
            ErrorKind::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, "VALIDATION_ERROR"),
            ErrorKind::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED"),
            ErrorKind::ModelLoading => (StatusCode::SERVICE_UNAVAILABLE, "MODEL_LOADING"),
            ErrorKind::ModelUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "MODEL_UNAVAILABLE"),
            ErrorKind::Superseded => (StatusCode::CONFLICT, "SUPERSEDED"),
            ErrorKind::DeadlinePassed => (StatusCode::GATEWAY_TIMEOUT, "DEADLINE_EXCEEDED"),
            ErrorKind::Cancelled => (StatusCode::SERVICE_UNAVAILABLE, "CANCELLED"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR"),
        };
        // A server that cannot answer now may be able to in a while: the load is tried again with the next request.
        let retry_after = error
            .retry_after()
            .or((status == StatusCode::SERVICE_UNAVAILABLE).then_some(Duration::from_secs(5)));
        let too_long = error.is_prompt_too_long();
        Self {
            field: error.field().map(str::to_owned),
            openai_code: too_long.then_some("context_length_exceeded"),
            retry_after,
            ..Self::new(status, code, error.to_string())
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dialects_by_path() {
        for path in
            ["/v1/chat/completions", "/v1", "/infill", "/completion", "/completions", "/v1/nothing"]
        {
            assert_eq!(Dialect::of(path), Dialect::OpenAi, "{path}");
        }
        for path in ["/v1/messages", "/v1/messages/count_tokens"] {
            assert_eq!(Dialect::of(path), Dialect::Anthropic, "{path}");
        }
        for path in ["/api/v1/code/generate", "/", "/v10", "/health"] {
            assert_eq!(Dialect::of(path), Dialect::Hapa, "{path}");
        }
    }

    #[test]
    fn retry_after_is_whole_seconds_and_never_zero() {
        let mut problem = Problem::internal("x");
        assert_eq!(problem.retry_after_seconds(), None);
        for (wait_ms, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2)] {
            problem.retry_after = Some(Duration::from_millis(wait_ms));
            assert_eq!(problem.retry_after_seconds(), Some(seconds));
        }
    }
}
