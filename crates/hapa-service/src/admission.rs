//! Who is let in: places for requests, before any work is done for them.
//!
//! A request that must be generated takes a [`Place`] first; hits and requests that share a generation take none. Places are counted
//! in requests (those that run and those that wait) and in tokens (prompts that are not read yet). What is over a limit is refused
//! at once and told when to come back. So is a request that would wait longer for its first token than it may, by the engine's
//! own outlook. The order in which those wait who were let in is the engine's business: there is one queue, and it is there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::error::ServiceError;
use crate::request::Request;

/// How long a refused caller is told to stay away, at least and at most.
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(120);
/// A namespace that has asked for nothing for so long needs no places kept.
const GONE_AFTER: Duration = Duration::from_secs(600);
/// What a namespace may hold beside others, in places that are free: so a quarter stays free for whoever comes next.
const HELD_PER_FREE: usize = 3;

/// Bounds of what may wait. That of requests is in the options of the engine (`queue_limit`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmissionOptions {
    /// Most prompt tokens that wait to be read, of all requests together. One prompt alone may be longer.
    pub queue_tokens: usize,
    /// A request that would wait longer for its first token is refused at once; `None` for no such limit.
    pub first_token: Option<Duration>,
}

impl Default for AdmissionOptions {
    fn default() -> Self {
        Self { queue_tokens: 131_072, first_token: None }
    }
}

/// What waits, and what was refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdmissionStats {
    /// Requests that hold a place: they wait or run.
    pub requests: usize,
    /// Most of them.
    pub most_requests: usize,
    /// Prompt tokens of those that wait for their first token.
    pub tokens: usize,
    /// Most of them.
    pub most_tokens: usize,
    /// Requests refused because all places were taken, or all that their namespace may have.
    pub refused_full: u64,
    /// Requests refused because they would have waited too long.
    pub refused_slow: u64,
}

/// What a request asks of the engine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) namespace: &'a str,
    /// Of its prompt; a guess.
    pub(crate) tokens: usize,
    pub(crate) deadline: Option<Instant>,
}

impl<'a> Asked<'a> {
    pub(crate) fn by(request: &'a Request, deadline: Option<Instant>) -> Self {
        let tokens = request.guessed_prompt_tokens();
        Self { namespace: &request.cache.namespace, tokens, deadline }
    }
}

/// Gives places.
#[derive(Debug)]
pub(crate) struct Admission {
    options: AdmissionOptions,
    most_requests: usize,
    state: Mutex<State>,
    /// Tells of each place that is given back.
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    requests: usize,
    tokens: usize,
    holders: HashMap<String, Holder>,
    pace: Pace,
    refused_full: u64,
    refused_slow: u64,
}

#[derive(Debug)]
struct Holder {
    held: usize,
    asked: Instant,
}

/// How often a place becomes free, and how many were sent away to come back for one.
#[derive(Debug, Default)]
struct Pace {
    freed: Option<Instant>,
    seconds_per_place: Option<f64>,
    sent_away: f64,
}

impl Pace {
    fn freed(&mut self, now: Instant, still_held: usize) {
        if let Some(before) = self.freed {
            let gap = (now - before).as_secs_f64();
            let old = self.seconds_per_place.unwrap_or(gap);
            self.seconds_per_place = Some(old + (gap - old) / 16.0);
        }
        // The time in which nobody asks for anything says nothing about the engine.
        self.freed = (still_held > 0).then_some(now);
        self.sent_away = (self.sent_away - 1.0).max(0.0);
    }

    /// When to come back: those who were sent away before get the places that become free before.
    fn send_away(&mut self) -> Duration {
        self.sent_away += 1.0;
        let seconds = self.seconds_per_place.unwrap_or(0.0) * self.sent_away;
        // Who never came back must not keep the others away for ever.
        self.sent_away *= 0.999;
        Duration::try_from_secs_f64(seconds).unwrap_or(LATEST).clamp(SOONEST, LATEST)
    }
}

impl Admission {
    /// For an engine that runs and lets wait so many requests together.
    pub(crate) fn new(options: AdmissionOptions, most_requests: usize) -> Arc<Self> {
        Arc::new(Self { options, most_requests, state: Mutex::default(), freed: Notify::new() })
    }

    /// Takes a place. `first_token_in` is the engine's outlook, where it has one; it is only asked when it matters.
    pub(crate) fn enter(
        self: &Arc<Self>,
        asked: Asked<'_>,
        first_token_in: impl FnOnce() -> Option<Duration>,
    ) -> Result<Place, ServiceError> {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let refusal = match state.problem(self, asked, now) {
            Some(problem) => Some(state.full(problem)),
            None => self.too_slow(asked.deadline, now, first_token_in).inspect(|_| {
                state.refused_slow += 1;
            }),
        };
        let holder = state.holder(asked.namespace, now);
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        holder.held += 1;
        state.requests += 1;
        state.tokens += asked.tokens;
        Ok(Place {
            admission: Arc::clone(self),
            namespace: asked.namespace.to_owned(),
            tokens: asked.tokens,
        })
    }

    fn too_slow(
        &self,
        deadline: Option<Instant>,
        now: Instant,
        first_token_in: impl FnOnce() -> Option<Duration>,
    ) -> Option<ServiceError> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(now));
        let allowed = left.into_iter().chain(self.options.first_token).min()?;
        let predicted = first_token_in()?;
        (predicted > allowed).then(|| ServiceError::TooSlow {
            predicted,
            allowed,
            retry_after: (predicted - allowed).clamp(SOONEST, LATEST),
        })
    }

    /// Waits until there is a place, at most so long. Takes and counts nothing.
    pub(crate) async fn room(&self, asked: Asked<'_>, at_most: Duration) {
        let there_is = async {
            loop {
                let mut freed = std::pin::pin!(self.freed.notified());
                // From here on, so that no place is missed that becomes free while this one looks.
                freed.as_mut().enable();
                if self.has_room(asked) {
                    return;
                }
                freed.await;
            }
        };
        let _ = tokio::time::timeout(at_most, there_is).await;
    }

    fn has_room(&self, asked: Asked<'_>) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.problem(self, asked, Instant::now()).is_none()
    }

    /// The refusal of a request whose place turned out to be none.
    pub(crate) fn full(&self, problem: String) -> ServiceError {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.full(problem)
    }

    pub(crate) fn stats(&self) -> AdmissionStats {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        AdmissionStats {
            requests: state.requests,
            most_requests: self.most_requests,
            tokens: state.tokens,
            most_tokens: self.options.queue_tokens,
            refused_full: state.refused_full,
            refused_slow: state.refused_slow,
        }
    }
}

impl State {
    /// Why there is no place, if there is none.
    fn problem(&self, admission: &Admission, asked: Asked<'_>, now: Instant) -> Option<String> {
        let most = admission.most_requests;
        let most_tokens = admission.options.queue_tokens;
        let free = most.saturating_sub(self.requests);
        let held = self.holders.get(asked.namespace).map_or(0, |holder| holder.held);
        let others = self.holders.iter().any(|(namespace, holder)| {
            namespace != asked.namespace && (holder.held > 0 || now - holder.asked < GONE_AFTER)
        });
        if free == 0 {
            Some(format!("{most} requests are under way or waiting already"))
        } else if others && held >= free * HELD_PER_FREE {
            Some(format!(
                "{held} requests of this tenant are under way or waiting already, and the other places are for others"
            ))
        } else if self.tokens > 0 && self.tokens + asked.tokens > most_tokens {
            let tokens = self.tokens;
            Some(format!(
                "prompts of {tokens} tokens are waiting already, and at most {most_tokens} may"
            ))
        } else {
            None
        }
    }

    fn full(&mut self, problem: String) -> ServiceError {
        self.refused_full += 1;
        ServiceError::Overloaded { problem, retry_after: self.pace.send_away() }
    }

    /// The namespace's record; also of one that is refused, so that places are kept for it from then on.
    fn holder(&mut self, namespace: &str, now: Instant) -> &mut Holder {
        if !self.holders.contains_key(namespace) {
            self.holders.retain(|_, holder| holder.held > 0 || now - holder.asked < GONE_AFTER);
        }
        let holder =
            self.holders.entry(namespace.to_owned()).or_insert(Holder { held: 0, asked: now });
        holder.asked = now;
        holder
    }
}

/// A place that was taken; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place {
    admission: Arc<Admission>,
    namespace: String,
    /// That count as waiting.
    tokens: usize,
}

impl Place {
    /// Corrects the guess of the prompt's tokens.
    pub(crate) fn counted(&mut self, tokens: usize) {
        let mut state = self.admission.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.tokens = state.tokens - self.tokens + tokens;
        self.tokens = tokens;
    }

    /// The prompt was read: it waits no more.
    pub(crate) fn read(&mut self) {
        self.counted(0);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.admission.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.tokens -= self.tokens;
        state.requests -= 1;
        let still_held = state.requests;
        state.pace.freed(Instant::now(), still_held);
        if let Some(holder) = state.holders.get_mut(&self.namespace) {
            holder.held -= 1;
        }
        drop(state);
        self.admission.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
