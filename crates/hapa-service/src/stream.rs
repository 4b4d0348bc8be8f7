//! An answer on its way to one caller.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures_core::Stream;
use hapa_cache::{CacheKey, FlightError, FlightEvent, Waiter};

use crate::answer::{Answer, AnswerEvent, CacheOutcome, CacheReport};
use crate::cutoff::Cutoff;
use crate::error::ServiceError;
use crate::generate::{Job, Piece};
use crate::inner::Inner;
use crate::kept::CachedAnswer;
use crate::timeline::Timeline;
use crate::underway::{Followed, Step};

pub(crate) type FlightWaiter = Waiter<CacheKey, Piece, Arc<Answer>, ServiceError>;

/// The events of one answer: pieces of text, then [`AnswerEvent::Finished`] or an error, then nothing.
///
/// Dropping it leaves the generation; the last caller that leaves cancels it.
#[derive(Debug)]
pub struct AnswerStream {
    source: Source,
    report: CacheReport,
    started: Instant,
    timeline: Timeline,
    /// An event that was looked at before the stream was handed out.
    first: Option<AnswerEvent>,
    /// What may end it early.
    cutoff: Cutoff,
    /// Where a failure is counted, once the stream was handed out.
    watcher: Option<Watcher>,
}

struct Watcher(Arc<Inner>);

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watcher")
    }
}

#[derive(Debug)]
enum Source {
    /// The answer is there: its text, then its end.
    Whole {
        answer: Arc<Answer>,
        scores_sent: bool,
        text_sent: bool,
    },
    /// Another task makes it. The job is kept in case that task goes away and this caller has to lead.
    Flight {
        waiter: FlightWaiter,
        job: Box<Job>,
    },
    /// Another task writes a completion that the user types into. Where it writes something else, the job is begun.
    Followed {
        followed: Followed,
        job: Box<Job>,
        /// It agrees with what was typed, and was counted as shared.
        agreed: bool,
    },
    Done,
}

impl AnswerStream {
    pub(crate) fn whole(answer: Arc<Answer>, report: CacheReport, started: Instant) -> Self {
        let source = Source::Whole { answer, scores_sent: false, text_sent: false };
        Self::new(source, report, started)
    }

    fn new(source: Source, report: CacheReport, started: Instant) -> Self {
        let timeline = Timeline::default();
        let cutoff = Cutoff::default();
        Self { source, report, started, timeline, first: None, cutoff, watcher: None }
    }

    pub(crate) fn until(self, cutoff: Cutoff) -> Self {
        Self { cutoff, ..self }
    }

    /// Counts its failure, if it fails from now on.
    pub(crate) fn watched(self, inner: Arc<Inner>) -> Self {
        Self { watcher: Some(Watcher(inner)), ..self }
    }

    pub(crate) fn with_timeline(self, timeline: Timeline) -> Self {
        Self { timeline, ..self }
    }

    pub(crate) fn flight(
        waiter: FlightWaiter,
        job: Job,
        report: CacheReport,
        started: Instant,
    ) -> Self {
        let source = Source::Flight { waiter, job: Box::new(job) };
        Self::new(source, report, started)
    }

    pub(crate) fn followed(
        followed: Followed,
        job: Job,
        report: CacheReport,
        started: Instant,
    ) -> Self {
        let source = Source::Followed { followed, job: Box::new(job), agreed: false };
        Self::new(source, report, started)
    }

    /// What the response cache did; known when the stream is handed out.
    pub fn cache(&self) -> &CacheReport {
        &self.report
    }

    /// The next event; `None` after the last one. Cancel-safe. The same as `StreamExt::next`, without that import.
    pub async fn next(&mut self) -> Option<Result<AnswerEvent, ServiceError>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Waits for the first event, so that a failure before any text is an error of the request and not of the stream.
    pub(crate) async fn peek(&mut self) -> Result<(), ServiceError> {
        let event = std::future::poll_fn(|cx| self.poll_source(cx)).await;
        match event {
            Some(Ok(event)) => {
                self.first = Some(event);
                Ok(())
            }
            Some(Err(error)) => Err(error),
            None => Err(ServiceError::internal("the generation ended without an answer")),
        }
    }

    /// The end of the stream; the text on the way there is part of the answer anyway.
    pub(crate) async fn answer(mut self) -> Result<Answer, ServiceError> {
        if let Source::Whole { scores_sent, text_sent, .. } = &mut self.source {
            // Nobody reads the way there.
            (*scores_sent, *text_sent) = (true, true);
        }
        loop {
            match self.next().await {
                Some(Ok(AnswerEvent::Text(_) | AnswerEvent::Logprobs(_))) => {}
                Some(Ok(AnswerEvent::Finished(answer))) => return Ok(*answer),
                Some(Err(error)) => return Err(error),
                None => {
                    return Err(ServiceError::internal("the generation ended without an answer"));
                }
            }
        }
    }

    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<AnswerEvent, ServiceError>>> {
        if matches!(self.source, Source::Flight { .. } | Source::Followed { .. })
            && let Poll::Ready(error) = Pin::new(&mut self.cutoff).poll(cx)
        {
            // Leaves the generation, which ends unless others wait for the same.
            self.source = Source::Done;
            return Poll::Ready(Some(Err(error)));
        }
        if let Source::Followed { .. } = self.source
            && let Some(event) = ready!(self.poll_followed(cx))
        {
            return Poll::Ready(Some(Ok(event)));
        }
        match &mut self.source {
            Source::Done | Source::Followed { .. } => Poll::Ready(None),
            Source::Whole { answer, scores_sent, text_sent } => {
                let scores = answer.logprobs.as_ref().filter(|scores| !scores.is_empty());
                if let Some(scores) = scores.filter(|_| !std::mem::replace(scores_sent, true)) {
                    return Poll::Ready(Some(Ok(AnswerEvent::Logprobs(scores.clone()))));
                }
                if !*text_sent && !answer.text.is_empty() {
                    *text_sent = true;
                    return Poll::Ready(Some(Ok(AnswerEvent::Text(answer.text.clone()))));
                }
                let answer = Arc::clone(answer);
                Poll::Ready(Some(Ok(self.finished(&answer))))
            }
            Source::Flight { waiter, job } => loop {
                match ready!(waiter.poll_next(cx)) {
                    Ok(FlightEvent::Item(Piece::Scores(scores))) => {
                        return Poll::Ready(Some(Ok(AnswerEvent::Logprobs(scores.to_vec()))));
                    }
                    Ok(FlightEvent::Item(Piece::Text(text))) => {
                        return Poll::Ready(Some(Ok(AnswerEvent::Text(text.as_ref().to_owned()))));
                    }
                    Ok(FlightEvent::Lead(producer)) => Job::clone(job).take_over(producer),
                    Err(Ok(answer)) => return Poll::Ready(Some(Ok(self.finished(&answer)))),
                    Err(Err(error)) => {
                        self.source = Source::Done;
                        return Poll::Ready(Some(Err(flight_error(error))));
                    }
                }
            },
        }
    }

    /// The next event of what is followed; `None` when it wrote something else than was typed, or ended before: the source is a
    /// flight of its own from then on.
    fn poll_followed(&mut self, cx: &mut Context<'_>) -> Poll<Option<AnswerEvent>> {
        while let Source::Followed { followed, job, agreed } = &mut self.source {
            let mut agrees = || {
                if !std::mem::replace(agreed, true) {
                    job.inner.observe.outcome(CacheOutcome::Shared);
                }
            };
            let step = match ready!(followed.waiter.poll_next(cx)) {
                Ok(FlightEvent::Item(Piece::Scores(_))) => Step::Typed,
                Ok(FlightEvent::Item(Piece::Text(piece))) => followed.push(&piece),
                Err(Ok(answer)) => {
                    let rest =
                        followed.typed_bytes().and_then(|typed| CachedAnswer(answer).tail(typed));
                    match rest.filter(|rest| !rest.text.is_empty()) {
                        Some(rest) => {
                            agrees();
                            return Poll::Ready(Some(self.finished(&rest)));
                        }
                        None => Step::Differs,
                    }
                }
                // Its lead is for those who wait for its answer.
                Ok(FlightEvent::Lead(_)) | Err(Err(_)) => Step::Differs,
            };
            match step {
                Step::Typed => {}
                Step::Text(text) => {
                    agrees();
                    return Poll::Ready(Some(AnswerEvent::Text(text)));
                }
                Step::Differs => self.begin_anew(),
            }
        }
        Poll::Ready(None)
    }

    /// Leaves what was followed, which ends unless others wait for it, and asks for an answer of its own.
    fn begin_anew(&mut self) {
        let source = std::mem::replace(&mut self.source, Source::Done);
        let Source::Followed { followed, job, .. } = source else { return };
        drop(followed);
        let join = job.inner.flights.join(job.digest.key);
        let outcome = match join.producer {
            Some(_) => CacheOutcome::Miss,
            None => CacheOutcome::Shared,
        };
        job.inner.observe.outcome(outcome);
        self.report = CacheReport::new(outcome, &job.digest);
        if let Some(producer) = join.producer {
            Job::clone(&job).take_over(producer);
        }
        self.source = Source::Flight { waiter: join.waiter, job };
    }

    fn finished(&mut self, answer: &Answer) -> AnswerEvent {
        self.source = Source::Done;
        self.cutoff = Cutoff::default();
        let mut answer = answer.clone();
        if self.report.outcome.is_hit() {
            answer.timings = crate::answer::Timings::default();
            (answer.usage.kv_pages, answer.usage.kv_bytes) = (0, 0);
        }
        answer.timings.total = self.started.elapsed();
        answer.cache = self.report.clone();
        self.timeline.answered(self.started, &answer);
        AnswerEvent::Finished(Box::new(answer))
    }
}

impl Stream for AnswerStream {
    type Item = Result<AnswerEvent, ServiceError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(event) = self.first.take() {
            return Poll::Ready(Some(Ok(event)));
        }
        let event = ready!(self.poll_source(cx));
        if let (Some(Err(error)), Some(Watcher(inner))) = (&event, &self.watcher) {
            inner.observe.failure(error);
        }
        Poll::Ready(event)
    }
}

fn flight_error(error: FlightError<ServiceError>) -> ServiceError {
    match error {
        FlightError::Failed(error) => error,
        FlightError::Abandoned => {
            ServiceError::internal("the task that made the answer failed; ask again")
        }
        other => ServiceError::internal(other.to_string()),
    }
}

#[cfg(test)]
mod tests;
