//! What can go wrong in a command, and the exit code that it ends with.

use std::error::Error as _;
use std::path::PathBuf;
use std::process::ExitCode;

use hapa_model::{ModelError, SharedError};
use hapa_server::{KeyFileError, ServerError};
use hapa_service::{ErrorKind, ServiceError};

use crate::interrupt::Signal;

/// An error of a command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CliError {
    /// The command line, a setting or an input is at fault.
    #[error("{0}")]
    Usage(String),
    /// Something did not work.
    #[error("{0}")]
    Failed(String),
    /// The operating system refused something.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Results could not be written.
    #[error("could not write to standard output")]
    Output(#[source] std::io::Error),
    /// Whoever read the results has gone, as `head` does.
    #[error("nobody reads the results any more")]
    ReaderGone,
    /// The user or the system ended the command.
    #[error("stopped by {0}")]
    Stopped(Signal),
    /// A model could not be found, fetched, read or run.
    #[error(transparent)]
    Model(SharedError),
    /// A request could not be answered.
    #[error(transparent)]
    Service(ServiceError),
    /// The server could not start.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The file of API keys could not be used.
    #[error(transparent)]
    Keys(KeyFileError),
    /// A profile could not be taken, or a saved one not be read.
    #[cfg(unix)]
    #[error(transparent)]
    Profiler(#[from] hapa_profiler::ProfilerError),
}

/// A result of a command.
pub(crate) type Result<T, E = CliError> = std::result::Result<T, E>;

impl CliError {
    /// A mistake in what the user wrote.
    pub(crate) fn usage(problem: impl Into<String>) -> Self {
        Self::Usage(problem.into())
    }

    /// 0 done, 1 failed, 2 bad usage, 130 Ctrl-C, 143 asked to terminate.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            // Who closes the pipe has all that was wanted.
            Self::ReaderGone => 0,
            Self::Stopped(signal) => signal.exit_code(),
            Self::Model(error) => code_of(&ServiceError::Model(error.clone())),
            Self::Service(error) => code_of(error),
            _ => 1,
        }
    }

    /// Whether there is anything to tell: whoever stopped the command knows that.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, Self::ReaderGone | Self::Stopped(_))
    }

    /// The message and its causes, each a line; a cause that the message already tells is left out.
    pub(crate) fn report(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let line = error.to_string();
            if !text.contains(&line) {
                text.push_str("\n  caused by: ");
                text.push_str(&line);
            }
            cause = error.source();
        }
        text
    }
}

fn code_of(error: &ServiceError) -> u8 {
    match error {
        ServiceError::Model(model) if matches!(**model, ModelError::UnknownModel { .. }) => 2,
        error if error.kind() == ErrorKind::Invalid => 2,
        _ => 1,
    }
}

impl From<KeyFileError> for CliError {
    fn from(error: KeyFileError) -> Self {
        match error {
            KeyFileError::Refused(problem) => Self::Usage(problem),
            other => Self::Keys(other),
        }
    }
}

impl From<ModelError> for CliError {
    fn from(error: ModelError) -> Self {
        Self::Model(SharedError::new(error))
    }
}

impl From<SharedError> for CliError {
    fn from(error: SharedError) -> Self {
        Self::Model(error)
    }
}

impl From<ServiceError> for CliError {
    /// Fields of a request are named as on the wire there; here they are what the user typed.
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Invalid { field, problem } => {
                Self::Usage(format!("{} {problem}", typed(&field)))
            }
            ServiceError::Model(error) => Self::Model(error),
            other => Self::Service(other),
        }
    }
}

/// What a field of a request is called on the command line.
fn typed(field: &str) -> String {
    match field {
        "user_question" | "prompt" => "the prompt".to_owned(),
        "code_context" => "--context".to_owned(),
        "prefix" => "the text before the cursor".to_owned(),
        "suffix" => "the text after the cursor".to_owned(),
        "models" => "the setting models:".to_owned(),
        other => format!("--{}", other.replace('_', "-")),
    }
}

impl From<&CliError> for ExitCode {
    fn from(error: &CliError) -> Self {
        Self::from(error.exit_code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let source = std::io::Error::other("the disk is on fire");
        let error = CliError::Io { action: "read", path: "x.py".into(), source };
        assert_eq!(error.report(), "could not read x.py\n  caused by: the disk is on fire");
        let source = std::io::Error::other("the disk is on fire");
        let model = ModelError::Io { action: "open", path: "m.gguf".into(), source };
        let error = CliError::from(model);
        assert_eq!(error.report(), "could not open m.gguf: the disk is on fire");
    }

    #[test]
    fn exit_codes_tell_who_is_at_fault() {
        let code = |error: ServiceError| CliError::from(error).exit_code();
        assert_eq!(code(ServiceError::invalid("user_question", "is empty")), 2);
        assert_eq!(
            code(ModelError::PromptTooLong { prompt_tokens: 9, context_tokens: 8 }.into()),
            2
        );
        let unknown = "no-such-model".parse::<hapa_model::ModelRef>().unwrap_err();
        assert_eq!(CliError::from(unknown).exit_code(), 2);
        assert_eq!(code(ModelError::Offline { name: "x".into() }.into()), 1);
        assert_eq!(CliError::ReaderGone.exit_code(), 0);
        assert_eq!(CliError::Stopped(Signal::Interrupt).exit_code(), 130);
    }

    #[test]
    fn fields_are_named_as_they_are_typed() {
        let error = CliError::from(ServiceError::invalid("max_tokens", "is 0"));
        assert_eq!(error.to_string(), "--max-tokens is 0");
        let error = CliError::from(ServiceError::invalid("user_question", "is empty"));
        assert_eq!(error.to_string(), "the prompt is empty");
    }
}
