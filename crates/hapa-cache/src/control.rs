//! What may be looked up and what may be kept: pure functions, so the rule can be read and tested.

use std::time::Duration;

/// What a request says about the cache. The default asks for the ordinary rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheControl {
    /// Compute a fresh answer (it may still be stored, replacing the old one).
    pub no_cache: bool,
    /// Keep nothing of this answer.
    pub no_store: bool,
    /// Keep the answer at most this long; the cache's own limit applies where it is shorter.
    pub ttl: Option<Duration>,
    /// The tenant this answer belongs to; part of the key.
    pub namespace: String,
}

/// What is known about an answer when the question is whether to keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerFacts {
    /// The same request would get the same answer: temperature 0, or a seed.
    pub deterministic: bool,
    /// The answer ended by itself or by a stop string.
    pub complete: bool,
    /// The answer was cut: by `max_tokens`, a full context, or a deadline.
    pub truncated: bool,
    /// Somebody stopped it.
    pub cancelled: bool,
    /// It ended in an error.
    pub failed: bool,
}

impl AnswerFacts {
    /// A whole answer to a deterministic request.
    pub const WHOLE: Self = Self {
        deterministic: true,
        complete: true,
        truncated: false,
        cancelled: false,
        failed: false,
    };
}

/// Why an answer is not kept, or not looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The request said `no-cache`.
    #[error("the request said no-cache")]
    NoCache,
    /// The request said `no-store`.
    #[error("the request said no-store")]
    NoStore,
    /// A random request without a seed: everybody expects a different answer.
    #[error("the request is random and has no seed")]
    NotDeterministic,
    /// Failed answers are never kept.
    #[error("the answer failed")]
    Failed,
    /// Cancelled answers are never kept.
    #[error("the answer was cancelled")]
    Cancelled,
    /// Truncated answers are never kept.
    #[error("the answer was truncated")]
    Truncated,
    /// The answer did not end.
    #[error("the answer is not complete")]
    Incomplete,
    /// A time to live of zero.
    #[error("the time to live is zero")]
    ZeroTtl,
}

/// Whether a request may be answered from the cache, or share a running generation.
///
/// # Errors
/// The reason why not: `no-cache`, or a random request without a seed. A request that says
/// `no-store` may still be answered from the cache.
pub fn may_read(control: &CacheControl, deterministic: bool) -> Result<(), Refusal> {
    if control.no_cache {
        Err(Refusal::NoCache)
    } else if !deterministic {
        Err(Refusal::NotDeterministic)
    } else {
        Ok(())
    }
}

/// Whether an answer may be kept.
///
/// | answer | kept |
/// | --- | --- |
/// | whole, deterministic | yes, also under `no-cache` (it refreshes the entry) |
/// | `no-store`, or `ttl` of zero | no |
/// | random without a seed | no |
/// | failed, cancelled, truncated, unfinished | never |
///
/// # Errors
/// The first reason that applies, faults of the answer before wishes of the request.
pub fn may_store(control: &CacheControl, answer: &AnswerFacts) -> Result<(), Refusal> {
    if answer.failed {
        Err(Refusal::Failed)
    } else if answer.cancelled {
        Err(Refusal::Cancelled)
    } else if answer.truncated {
        Err(Refusal::Truncated)
    } else if !answer.complete {
        Err(Refusal::Incomplete)
    } else if !answer.deterministic {
        Err(Refusal::NotDeterministic)
    } else if control.no_store {
        Err(Refusal::NoStore)
    } else if control.ttl == Some(Duration::ZERO) {
        Err(Refusal::ZeroTtl)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_fault_of_an_answer_is_ever_kept() {
        let control = CacheControl::default();
        assert_eq!(may_store(&control, &AnswerFacts::WHOLE), Ok(()));
        // All 32 combinations: only the one whole, deterministic answer is kept.
        for bits in 0u8..32 {
            let facts = AnswerFacts {
                deterministic: bits & 1 != 0,
                complete: bits & 2 != 0,
                truncated: bits & 4 != 0,
                cancelled: bits & 8 != 0,
                failed: bits & 16 != 0,
            };
            assert_eq!(
                may_store(&control, &facts).is_ok(),
                facts == AnswerFacts::WHOLE,
                "{facts:?}"
            );
        }
    }

    #[test]
    fn wishes_of_the_request() {
        let no_cache = CacheControl { no_cache: true, ..CacheControl::default() };
        assert_eq!(may_read(&no_cache, true), Err(Refusal::NoCache));
        assert_eq!(may_store(&no_cache, &AnswerFacts::WHOLE), Ok(()));
        let no_store = CacheControl { no_store: true, ..CacheControl::default() };
        assert_eq!(may_read(&no_store, true), Ok(()));
        assert_eq!(may_store(&no_store, &AnswerFacts::WHOLE), Err(Refusal::NoStore));
        let zero = CacheControl { ttl: Some(Duration::ZERO), ..CacheControl::default() };
        assert_eq!(may_store(&zero, &AnswerFacts::WHOLE), Err(Refusal::ZeroTtl));
        assert_eq!(may_read(&CacheControl::default(), false), Err(Refusal::NotDeterministic));
    }
}
