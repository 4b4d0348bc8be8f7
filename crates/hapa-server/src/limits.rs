//! Requests and tokens a minute of each key.
//!
//! Both are leaky buckets (the GCRA of `governor`) that hold one minute's worth: a key that was quiet may use its minute at once.
//! Tokens are taken before any work: those of the prompt, guessed from its length, and the most that the answers may
//! have. What is not used after all is given back: all of it when the request is refused.

use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::auth::Rate;
use crate::problem::Problem;

const MINUTE: Duration = Duration::from_secs(60);

/// What a key has left of its minute.
#[derive(Debug)]
pub(crate) struct Limits {
    rate: Rate,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
}

impl Limits {
    pub(crate) fn new(rate: Rate) -> Self {
        Self {
            rate,
            requests: rate.requests.map(Bucket::new),
            tokens: rate.tokens.map(Bucket::new),
        }
    }

    pub(crate) fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes one request.
    pub(crate) fn take_request(&self) -> Result<(), Problem> {
        match &self.requests {
            Some(bucket) => {
                bucket.take(NonZeroU32::MIN).map_err(|wait| refusal("requests", bucket.limit, wait))
            }
            None => Ok(()),
        }
    }

    /// Takes the tokens of a prompt and its answers.
    pub(crate) fn take_tokens(&self, tokens: usize) -> Result<(), Problem> {
        let Some(bucket) = &self.tokens else { return Ok(()) };
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        let Some(tokens) = NonZeroU32::new(tokens) else { return Ok(()) };
        if tokens > bucket.limit {
            let message = format!(
                "the request may take {tokens} tokens, and the key has {} a minute; lower max_tokens",
                bucket.limit
            );
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", message));
        }
        bucket.take(tokens).map_err(|wait| refusal("tokens", bucket.limit, wait))
    }

    /// Gives back what was taken and not used.
    pub(crate) fn give_back_tokens(&self, tokens: usize) {
        if let Some(bucket) = &self.tokens {
            bucket.give_back(u32::try_from(tokens).unwrap_or(u32::MAX));
        }
    }

    /// `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, as OpenAI's clients know them.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        let mut insert = |name: &'static str, value: String| {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        if let Some(bucket) = &self.requests {
            let (left, reset) = bucket.left();
            insert("x-ratelimit-limit-requests", bucket.limit.to_string());
            insert("x-ratelimit-remaining-requests", left.to_string());
            insert("x-ratelimit-reset-requests", written(reset));
        }
        if let Some(bucket) = &self.tokens {
            let (left, reset) = bucket.left();
            insert("x-ratelimit-limit-tokens", bucket.limit.to_string());
            insert("x-ratelimit-remaining-tokens", left.to_string());
            insert("x-ratelimit-reset-tokens", written(reset));
        }
    }
}

fn refusal(what: &str, limit: NonZeroU32, wait: Duration) -> Problem {
    let message = format!("the key's {limit} {what} a minute are used up");
    let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", message);
    Problem { openai_code: Some("rate_limit_exceeded"), retry_after: Some(wait), ..problem }
}

/// As OpenAI writes times: `1s`, `20ms`, `1m30s`.
fn written(time: Duration) -> String {
    match (time.as_secs() / 60, time.as_secs() % 60, time.subsec_millis()) {
        (0, 0, ms) => format!("{ms}ms"),
        (0, s, _) => format!("{s}s"),
        (m, s, _) => format!("{m}m{s}s"),
    }
}

struct Bucket {
    limiter: RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>,
    clock: DefaultClock,
    limit: NonZeroU32,
    state: Mutex<BucketState>,
}

/// The limiter tells what is left only when something is taken, and takes nothing back.
struct BucketState {
    /// What was left, and when.
    left: u32,
    at: Instant,
    /// What was given back since and is used before the limiter is asked.
    given_back: u32,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Bucket {
    fn new(limit: NonZeroU32) -> Self {
        let limiter = RateLimiter::direct(Quota::per_minute(limit));
        Self {
            limiter: limiter.with_middleware(),
            clock: DefaultClock::default(),
            limit,
            state: Mutex::new(BucketState { left: limit.get(), at: Instant::now(), given_back: 0 }),
        }
    }

    fn state(&self) -> MutexGuard<'_, BucketState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the limiter has now.
    fn flown_in(&self, state: &BucketState) -> f64 {
        let limit = f64::from(self.limit.get());
        (f64::from(state.left) + state.at.elapsed().as_secs_f64() * limit / MINUTE.as_secs_f64())
            .min(limit)
    }

    /// Takes `cells`, at most the limit, or says how long to wait.
    fn take(&self, cells: NonZeroU32) -> Result<(), Duration> {
        let mut state = self.state();
        // Together with what has flown in, no more than the bucket holds.
        let room = (f64::from(self.limit.get()) - self.flown_in(&state)).ceil() as u32;
        let given_back = state.given_back.min(room).min(cells.get());
        let rest = NonZeroU32::new(cells.get() - given_back);
        if let Some(rest) = rest {
            match self.limiter.check_n(rest) {
                Ok(Ok(told)) => {
                    (state.left, state.at) = (told.remaining_burst_capacity(), Instant::now());
                }
                Ok(Err(until)) => return Err(until.wait_time_from(self.clock.now())),
                Err(_) => return Err(MINUTE),
            }
        }
        state.given_back = state.given_back.min(room) - given_back;
        Ok(())
    }

    fn give_back(&self, cells: u32) {
        let mut state = self.state();
        state.given_back = state.given_back.saturating_add(cells).min(self.limit.get());
    }

    /// What is left now, and how long until all is there again.
    fn left(&self) -> (u32, Duration) {
        let state = self.state();
        let limit = f64::from(self.limit.get());
        let left = (self.flown_in(&state) + f64::from(state.given_back)).min(limit);
        (left as u32, Duration::from_secs_f64((limit - left) / (limit / MINUTE.as_secs_f64())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(requests: u32, tokens: u32) -> Limits {
        Limits::new(Rate { requests: NonZeroU32::new(requests), tokens: NonZeroU32::new(tokens) })
    }

    #[test]
    fn a_minute_may_be_used_at_once_and_no_more() {
        let limits = limits(3, 0);
        for _ in 0..3 {
            assert_eq!(limits.take_request(), Ok(()));
        }
        let refused = limits.take_request().unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.code), (429, "RATE_LIMITED"));
        assert!(refused.retry_after_seconds().is_some_and(|wait| (1..=20).contains(&wait)));
        assert_eq!(limits.take_tokens(1_000_000), Ok(()), "tokens are not limited");
    }

    #[test]
    fn tokens_are_taken_whole_or_not_at_all() {
        let limits = limits(0, 100);
        assert_eq!(limits.take_tokens(0), Ok(()));
        assert_eq!(limits.take_tokens(60), Ok(()));
        assert!(limits.take_tokens(60).unwrap_err().retry_after.is_some());
        assert_eq!(limits.take_tokens(30), Ok(()));
        let never = limits.take_tokens(101).unwrap_err();
        assert!(never.retry_after.is_none() && never.message.contains("max_tokens"));
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_and_no_more() {
        let limits = limits(0, 1_000_000);
        let left = || limits.tokens.as_ref().unwrap().left().0;
        limits.take_tokens(900_000).unwrap();
        assert!(limits.take_tokens(900_000).is_err());
        limits.give_back_tokens(850_000);
        assert!((950_000..=1_000_000).contains(&left()), "{}", left());
        limits.take_tokens(900_000).unwrap();
        assert!(limits.take_tokens(900_000).is_err());
        // A full bucket holds no more than a minute's worth.
        limits.give_back_tokens(usize::MAX);
        limits.give_back_tokens(usize::MAX);
        limits.take_tokens(1_000_000).unwrap();
        assert!(limits.take_tokens(900_000).is_err());
    }

    #[test]
    fn headers_have_openais_names() {
        let limits = limits(60, 6_000);
        limits.take_request().unwrap();
        limits.take_tokens(3_000).unwrap();
        let mut headers = HeaderMap::new();
        limits.tell(&mut headers);
        assert_eq!(headers["x-ratelimit-limit-requests"], "60");
        assert!(["59", "60"].iter().any(|left| headers["x-ratelimit-remaining-requests"] == *left));
        assert_eq!(headers["x-ratelimit-limit-tokens"], "6000");
        assert_eq!(headers.len(), 6);
        assert_eq!(written(Duration::from_millis(20)), "20ms");
        assert_eq!(written(Duration::from_millis(1_020)), "1s");
        assert_eq!(written(Duration::from_secs(90)), "1m30s");
    }
}
