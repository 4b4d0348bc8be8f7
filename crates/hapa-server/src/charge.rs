//! What a request took from its key's minute, until it is known what it used.

use std::future::Future;
use std::sync::Arc;

use hapa_service::{Answer, AnswerStream, ErrorKind, ServiceError};

use crate::auth::Caller;
use crate::problem::Problem;

/// Tokens that were taken. Those of a request that never began are given back when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Charge {
    caller: Option<Arc<Caller>>,
    taken: usize,
    used: usize,
}

impl Charge {
    /// Takes so many tokens from the caller's minute, if there is a caller.
    ///
    /// # Errors
    /// 429 when too few are left.
    pub(crate) fn take(caller: Option<&Arc<Caller>>, tokens: usize) -> Result<Self, Problem> {
        let Some(caller) = caller else { return Ok(Self::default()) };
        caller.limits.take_tokens(tokens)?;
        Ok(Self { caller: Some(Arc::clone(caller)), taken: tokens, used: 0 })
    }

    /// The outcome of work that was paid for.
    pub(crate) async fn pays<T: Used>(
        mut self,
        work: impl Future<Output = Result<T, ServiceError>>,
    ) -> Result<T, Problem> {
        // Whoever leaves before the end has used it.
        self.used = self.taken;
        let outcome = work.await;
        match &outcome {
            Ok(answer) => self.used = answer.tokens(),
            Err(error) => self.failed(error),
        }
        Ok(outcome?)
    }

    /// An answer as it is written, with what was paid for it.
    pub(crate) async fn opens(
        mut self,
        stream: impl Future<Output = Result<AnswerStream, ServiceError>>,
    ) -> Result<(AnswerStream, Self), Problem> {
        self.used = self.taken;
        match stream.await {
            Ok(stream) => Ok((stream, self)),
            Err(error) => {
                self.failed(&error);
                Err(error.into())
            }
        }
    }

    /// The answer of a stream is whole.
    pub(crate) fn finished(&mut self, answer: &Answer) {
        self.used = answer.tokens();
    }

    /// What was refused costs nothing; what was cut short has been worked on.
    fn failed(&mut self, error: &ServiceError) {
        let cut_short = [ErrorKind::DeadlinePassed, ErrorKind::Superseded, ErrorKind::Cancelled];
        if !cut_short.contains(&error.kind()) {
            self.used = 0;
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(caller) = &self.caller {
            caller.limits.give_back_tokens(self.taken.saturating_sub(self.used));
        }
    }
}

/// What has a length in tokens.
pub(crate) trait Used {
    /// Prompt and answers together.
    fn tokens(&self) -> usize;
}

impl Used for Answer {
    fn tokens(&self) -> usize {
        self.usage.prompt_tokens + self.usage.generated_tokens
    }
}

/// Answers to one prompt.
impl Used for Vec<Answer> {
    fn tokens(&self) -> usize {
        let prompt = self.first().map_or(0, |answer| answer.usage.prompt_tokens);
        prompt + self.iter().map(|answer| answer.usage.generated_tokens).sum::<usize>()
    }
}
