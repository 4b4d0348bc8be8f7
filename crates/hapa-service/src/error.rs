//! What can go wrong between a request and its answer.

use std::sync::Arc;
use std::time::Duration;

use hapa_model::{ModelError, SharedError};

/// An error of the pipeline. Cheap to clone, since every waiter of a shared generation gets one.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The request breaks a rule; nothing was done.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field, by its name on the wire.
        field: String,
        /// What was found, and what is allowed.
        problem: String,
    },
    /// Too much work is waiting; the request was refused before any work was done.
    #[error("{problem}; try again in {} s", retry_after.as_secs().max(1))]
    Overloaded {
        /// What is full.
        problem: String,
        /// When a new try has a chance, from the measured speed.
        retry_after: Duration,
    },
    /// The request would wait longer for its first token than it may; it was refused before any work was done.
    #[error(
        "the first token would come in about {:.1} s and may take {:.1} s; try again in {} s",
        predicted.as_secs_f64(), allowed.as_secs_f64(), retry_after.as_secs().max(1)
    )]
    TooSlow {
        /// How long it would have waited, from what waits and the measured speed.
        predicted: Duration,
        /// What its deadline leaves, or what the service allows.
        allowed: Duration,
        /// When a new try has a chance.
        retry_after: Duration,
    },
    /// The request's deadline passed before its answer was whole; its work was cancelled.
    #[error("the request's deadline passed before the answer was whole")]
    DeadlinePassed,
    /// The model is still being loaded and the request would not wait for it any longer.
    #[error("the model is being loaded ({stage}); try again in {} s", retry_after.as_secs().max(1))]
    ModelLoading {
        /// What the load is doing.
        stage: String,
        /// When a new try has a chance.
        retry_after: Duration,
    },
    /// The model could not be loaded or could not answer.
    #[error("{0}")]
    Model(SharedError),
    /// The work was cancelled before the answer was whole.
    #[error("the request was cancelled")]
    Cancelled,
    /// A newer request of the same document took this one's place.
    #[error("a newer request of the same document came; this one was cancelled")]
    Superseded,
    /// A fault of the pipeline itself. The server goes on.
    #[error("internal error: {problem}")]
    Internal {
        /// What happened.
        problem: String,
    },
}

/// The class of a [`ServiceError`]: what an HTTP status or exit code is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request is at fault (HTTP 422 or 400, exit code 2).
    Invalid,
    /// Come back later (HTTP 503 with `Retry-After`).
    Overloaded,
    /// The model is not there yet (HTTP 503 with `Retry-After`).
    ModelLoading,
    /// The model cannot be had: missing, damaged, unreachable, unsupported (HTTP 503, exit code 1).
    ModelUnavailable,
    /// The deadline passed (HTTP 504).
    DeadlinePassed,
    /// The caller went away or stopped the work.
    Cancelled,
    /// A newer request of the same document took its place (HTTP 409).
    Superseded,
    /// A bug or an exhausted machine (HTTP 500, exit code 1).
    Internal,
}

impl ServiceError {
    /// A request that breaks a rule.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }

    pub(crate) fn internal(problem: impl Into<String>) -> Self {
        Self::Internal { problem: problem.into() }
    }

    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid { .. } => ErrorKind::Invalid,
            Self::Overloaded { .. } | Self::TooSlow { .. } => ErrorKind::Overloaded,
            Self::DeadlinePassed => ErrorKind::DeadlinePassed,
            Self::ModelLoading { .. } => ErrorKind::ModelLoading,
            Self::Cancelled => ErrorKind::Cancelled,
            Self::Superseded => ErrorKind::Superseded,
            Self::Internal { .. } => ErrorKind::Internal,
            Self::Model(error) => match error.as_ref() {
                ModelError::PromptTooLong { .. }
                | ModelError::KvCacheTooSmall { .. }
                | ModelError::EmptyPrompt
                | ModelError::InvalidOption { .. }
                | ModelError::NoFillInMiddle { .. }
                | ModelError::Grammar { .. }
                | ModelError::ToolParameters { .. }
                | ModelError::Template { .. } => ErrorKind::Invalid,
                ModelError::QueueFull { .. } => ErrorKind::Overloaded,
                ModelError::EngineClosed | ModelError::Engine { .. } | ModelError::Candle(_) => {
                    ErrorKind::Internal
                }
                _ => ErrorKind::ModelUnavailable,
            },
        }
    }

    /// The request's field that is at fault, where one is.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Invalid { field, .. } => Some(field),
            Self::Model(error) => match error.as_ref() {
                ModelError::PromptTooLong { .. }
                | ModelError::KvCacheTooSmall { .. }
                | ModelError::EmptyPrompt => Some("prompt"),
                ModelError::InvalidOption { option, .. } => Some(option),
                ModelError::NoFillInMiddle { .. } => Some("model"),
                ModelError::Grammar { .. } => Some("response_format"),
                ModelError::ToolParameters { .. } => Some("tools"),
                ModelError::Template { .. } => Some("messages"),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the prompt and an answer do not fit the model's context, or not the memory for keys and values.
    pub fn is_prompt_too_long(&self) -> bool {
        matches!(self, Self::Model(error) if error.is_prompt_too_long())
    }

    /// When a new try has a chance, for errors that pass.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after, .. }
            | Self::TooSlow { retry_after, .. }
            | Self::ModelLoading { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }
}

impl From<SharedError> for ServiceError {
    fn from(error: SharedError) -> Self {
        Self::Model(error)
    }
}

impl From<ModelError> for ServiceError {
    fn from(error: ModelError) -> Self {
        Self::Model(Arc::new(error))
    }
}
