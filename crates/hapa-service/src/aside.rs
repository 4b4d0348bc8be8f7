//! Work beside generations: tokens that are counted, texts that are tokenised, code that is checked.
//!
//! No engine's queue bounds it, and it takes threads and, of code that nests, stack by the length of its text. So it has
//! bounds of its own: how much text is worked on at once, and how many pieces wait for that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use hapa_model::{EncodeOptions, ModelLease};

use crate::error::ServiceError;
use crate::generate::off_runtime;
use crate::post::{SyntaxReport, validate_python};
use crate::prompt::{self, in_vocabulary};
use crate::request::Request;
use crate::service::Service;

/// Text that is worked on at once. A byte of code takes up to 2 KiB of stack where it nests.
const ROOM_BYTES: usize = 512 << 10;
/// Most pieces at once.
const MOST_AT_ONCE: usize = 16;
/// Most pieces that wait.
const MOST_WAITING: usize = 64;

/// Lets work in.
#[derive(Debug)]
pub(crate) struct Aside {
    room: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Default for Aside {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(ROOM_BYTES)), waiting: AtomicUsize::new(0) }
    }
}

impl Aside {
    /// Does the work on so many bytes of text, on a thread that may block. What has begun goes on when its caller leaves, and
    /// keeps its room until it is done.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ServiceError> {
        let room = self.room_for(bytes).await?;
        off_runtime(move || {
            let _room = room;
            work()
        })
        .await
    }

    async fn room_for(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ServiceError> {
        let share = bytes.clamp(ROOM_BYTES / MOST_AT_ONCE, ROOM_BYTES) as u32;
        let room = || Arc::clone(&self.room);
        if let Ok(permit) = room().try_acquire_many_owned(share) {
            return Ok(permit);
        }
        let _waits = Waits::enter(&self.waiting)?;
        let permit = room().acquire_many_owned(share).await;
        permit.map_err(|_| ServiceError::internal("the room for work beside generations is closed"))
    }
}

/// One of those who wait.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn enter(waiting: &'a AtomicUsize) -> Result<Self, ServiceError> {
        let before = waiting.fetch_add(1, Ordering::Relaxed);
        let entered = Self(waiting);
        if before < MOST_WAITING {
            return Ok(entered);
        }
        Err(ServiceError::Overloaded {
            problem: format!("{MOST_WAITING} texts wait to be checked or counted already"),
            retry_after: Duration::from_secs(1),
        })
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn check_length(field: &str, text: &str, most_chars: usize) -> Result<(), ServiceError> {
    // A character has at most four bytes: no need to count what is far too long.
    if text.len() > most_chars.saturating_mul(4) || text.chars().count() > most_chars {
        let problem = format!("has more than {most_chars} characters");
        return Err(ServiceError::invalid(field, problem));
    }
    Ok(())
}

/// What there is until a deadline.
async fn within<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = Result<T, ServiceError>>,
) -> Result<T, ServiceError> {
    match deadline {
        Some(at) => tokio::time::timeout_at(at.into(), work)
            .await
            .unwrap_or(Err(ServiceError::DeadlinePassed)),
        None => work.await,
    }
}

impl Service {
    /// The tokens of a text, loading the model if need be.
    ///
    /// # Errors
    /// When the model cannot be loaded, or the text cannot be tokenised or is longer than a prompt may be.
    pub async fn tokenize(
        &self,
        text: String,
        options: EncodeOptions,
        deadline: Option<Instant>,
    ) -> Result<Vec<u32>, ServiceError> {
        let limit = self.inner.limits.prompt_chars;
        check_length("content", &text, limit)?;
        let bytes = text.len();
        let encode = move |lease: &ModelLease| {
            lease.tokenizer().encode(&text, options).map_err(ServiceError::from)
        };
        self.aside(bytes, deadline, encode).await?
    }

    /// Tokens of a request's prompt, loading the model if need be.
    ///
    /// # Errors
    /// When the request breaks a limit, or the prompt cannot be made.
    pub async fn count_tokens(&self, request: Request) -> Result<usize, ServiceError> {
        self.inner.limits.check(&request)?;
        let window = self.inner.limits.completion_window;
        let (bytes, deadline) = (request.prompt_bytes(), request.deadline);
        let count = move |lease: &ModelLease| {
            prompt::tokens(lease, &request, window).map(|tokens| tokens.len())
        };
        self.aside(bytes, deadline, count).await?
    }

    /// The text of tokens, loading the model if need be.
    ///
    /// # Errors
    /// When the model cannot be loaded, a token is not in its vocabulary, or there are more than a prompt may have characters.
    pub async fn detokenize(
        &self,
        tokens: Vec<u32>,
        deadline: Option<Instant>,
    ) -> Result<String, ServiceError> {
        let (count, limit) = (tokens.len(), self.inner.limits.prompt_chars);
        if count > limit {
            let problem = format!("has {count} tokens; at most {limit} are allowed");
            return Err(ServiceError::invalid("tokens", problem));
        }
        let bytes = std::mem::size_of_val(&*tokens);
        let decode = move |lease: &ModelLease| {
            in_vocabulary(lease.tokenizer(), "tokens", &tokens)?;
            Ok(lease.tokenizer().decode(&tokens))
        };
        self.aside(bytes, deadline, decode).await?
    }

    /// Whether code is valid Python. Takes no model.
    ///
    /// # Errors
    /// When the code is longer than may be checked, too many wait for a check, or the deadline passes.
    pub async fn validate(
        &self,
        code: String,
        deadline: Option<Instant>,
    ) -> Result<SyntaxReport, ServiceError> {
        let limit = self.inner.limits.code_chars;
        check_length("code", &code, limit)?;
        let checked = self.inner.aside.run(code.len(), move || validate_python(&code));
        within(deadline, checked).await.inspect_err(|error| self.note_failure(Some(error)))
    }

    /// Does something with the model, loaded if need be, and so many bytes of text.
    async fn aside<T: Send + 'static>(
        &self,
        bytes: usize,
        deadline: Option<Instant>,
        work: impl FnOnce(&ModelLease) -> T + Send + 'static,
    ) -> Result<T, ServiceError> {
        let done = async {
            let lease = self.inner.lease(&self.served, deadline).await?;
            self.inner.aside.run(bytes, move || work(&lease)).await
        };
        within(deadline, done).await.inspect_err(|error| self.note_failure(Some(error)))
    }

    /// What each of the model's tokens stands for, loading the model if need be: bytes, which may be a part of a character; of a
    /// control token its name.
    ///
    /// # Errors
    /// When the model cannot be loaded.
    pub async fn pieces(&self, tokens: &[u32]) -> Result<Vec<Vec<u8>>, ServiceError> {
        let lease = self.inner.lease(&self.served, None).await?;
        let tokenizer = lease.tokenizer();
        let piece = |&token: &u32| match tokenizer.is_special(token) {
            true => tokenizer.token_text(token).into_owned().into_bytes(),
            false => tokenizer.token_bytes(token).into_owned(),
        };
        Ok(tokens.iter().map(piece).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::future::join_all;

    use super::*;
    use crate::error::ErrorKind;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_over_the_bounds_waits_or_is_refused() {
        let aside = Arc::new(Aside::default());
        let (open, gate) = mpsc::channel::<()>();
        let first = {
            let aside = Arc::clone(&aside);
            tokio::spawn(async move { aside.run(usize::MAX, move || gate.recv().is_err()).await })
        };
        while aside.room.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let deadline = Some(Instant::now() + Duration::from_millis(20));
        let late = within(deadline, aside.run(1, || ())).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::DeadlinePassed);
        assert_eq!(aside.waiting.load(Ordering::Relaxed), 0, "who left waits no more");
        let pieces = (0..MOST_WAITING + 5).map(|_| aside.run(1, || ()));
        let all = tokio::join!(join_all(pieces), async {
            while aside.waiting.load(Ordering::Relaxed) < MOST_WAITING {
                tokio::task::yield_now().await;
            }
            drop(open);
        });
        let refused: Vec<_> = all.0.into_iter().filter_map(Result::err).collect();
        assert_eq!(refused.len(), 5);
        assert!(refused.iter().all(|error| error.kind() == ErrorKind::Overloaded));
        assert!(first.await.unwrap().unwrap());
        assert_eq!(aside.room.available_permits(), ROOM_BYTES);
    }

    #[tokio::test]
    async fn a_panic_gives_the_room_back_and_keeps_its_words() {
        let aside = Aside::default();
        let error = aside.run(1, || panic!("a secret")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(!error.to_string().contains("secret"), "{error}");
        assert_eq!(aside.room.available_permits(), ROOM_BYTES);
    }
}
