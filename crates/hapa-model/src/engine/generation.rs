//! The reader's end of a request.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::sync::mpsc;

use super::queue::Shared;
use super::request::{Finish, FinishReason, GenerateEvent, TextDelta};
use crate::error::{ModelError, Result, SharedError};

/// An answer on its way.
///
/// Events arrive through a bounded channel: a reader that stops reading pauses its own request and nobody
/// else's. Dropping the `Generation` cancels the request wherever it is: in the queue, in prefill, in decode.
pub struct Generation {
    pub(super) events: mpsc::Receiver<GenerateEvent>,
    /// Why the channel ended without [`GenerateEvent::Finished`].
    pub(super) failure: Arc<OnceLock<SharedError>>,
    /// Tokens of the prompt that were not computed.
    pub(super) cached: Arc<AtomicUsize>,
    /// The queue and the request's number in it; `None` when the answer was ready at once.
    pub(super) origin: Option<(Arc<Shared>, u64)>,
    pub(super) submitted: Instant,
    pub(super) done: bool,
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation")
            .field("id", &self.origin.as_ref().map(|(_, id)| *id))
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

/// A whole answer, for callers that don't stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Text, tokens and log-probabilities of all events together.
    pub output: TextDelta,
    /// How it ended.
    pub finish: Finish,
}

impl Generation {
    /// An answer that needs no engine.
    pub(super) fn ready(finish: Finish) -> Self {
        let (sender, events) = mpsc::channel(1);
        // The channel is new and holds one event: this cannot fail.
        let _ = sender.try_send(GenerateEvent::Finished(finish));
        Self {
            events,
            failure: Arc::default(),
            cached: Arc::default(),
            origin: None,
            submitted: Instant::now(),
            done: false,
        }
    }

    /// The moment from which its [`Timings`](super::Timings) count.
    pub fn submitted(&self) -> Instant {
        self.submitted
    }

    /// Tokens of the prompt that were in the prefix cache; known once the first text has come. For readers that leave before
    /// the end, which tells it too.
    pub fn cached_tokens(&self) -> usize {
        self.cached.load(Ordering::Relaxed)
    }

    /// The next event; `None` after the last one.
    ///
    /// # Errors
    /// When the engine failed or was shut down; that is the last item then.
    pub async fn next(&mut self) -> Option<Result<GenerateEvent, SharedError>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`Self::next`] for implementers of streams.
    pub fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<GenerateEvent, SharedError>>> {
        if self.done {
            return Poll::Ready(None);
        }
        self.events.poll_recv(cx).map(|event| Some(self.received(event)))
    }

    /// [`Self::next`] for threads outside an async runtime; panics inside one.
    pub fn blocking_next(&mut self) -> Option<Result<GenerateEvent, SharedError>> {
        if self.done {
            return None;
        }
        let event = self.events.blocking_recv();
        Some(self.received(event))
    }

    fn received(&mut self, event: Option<GenerateEvent>) -> Result<GenerateEvent, SharedError> {
        match event {
            Some(event) => {
                self.done = matches!(event, GenerateEvent::Finished(_));
                if let (false, Some((shared, _))) = (self.done, &self.origin) {
                    shared.drained();
                }
                Ok(event)
            }
            None => {
                self.done = true;
                let failure = self.failure.get().cloned();
                Err(failure.unwrap_or_else(|| Arc::new(ModelError::EngineClosed)))
            }
        }
    }

    /// Waits for the end and gives the whole answer.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn collect(mut self) -> Result<Answer, SharedError> {
        let mut output = TextDelta::default();
        while let Some(event) = self.next().await {
            match event? {
                GenerateEvent::Text(delta) => append(&mut output, delta),
                GenerateEvent::Finished(finish) => return Ok(Answer { output, finish }),
            }
        }
        Err(Arc::new(ModelError::EngineClosed))
    }

    /// [`Self::collect`] for threads outside an async runtime; panics inside one.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn blocking_collect(mut self) -> Result<Answer, SharedError> {
        let mut output = TextDelta::default();
        while let Some(event) = self.blocking_next() {
            match event? {
                GenerateEvent::Text(delta) => append(&mut output, delta),
                GenerateEvent::Finished(finish) => return Ok(Answer { output, finish }),
            }
        }
        Err(Arc::new(ModelError::EngineClosed))
    }
}

fn append(output: &mut TextDelta, delta: TextDelta) {
    output.text.push_str(&delta.text);
    output.tokens.extend(delta.tokens);
    output.logprobs.extend(delta.logprobs);
}

impl Answer {
    /// Why the answer ended.
    pub fn reason(&self) -> FinishReason {
        self.finish.reason
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // Closing first: the loop looks at the channel once it is awake.
        self.events.close();
        if let Some((shared, id)) = self.origin.take() {
            shared.cancelled(id);
        }
    }
}
