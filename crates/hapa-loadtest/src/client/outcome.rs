//! How a request can end.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The four ways in which a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// A whole answer.
    Success,
    /// The server said that it has too much to do: 429 or 503.
    Refused,
    /// An answer began and did not end.
    Incomplete,
    /// Anything else that is no answer.
    Error,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Success => "success",
            Self::Refused => "refused",
            Self::Incomplete => "incomplete",
            Self::Error => "error",
        })
    }
}

/// Why a request is no success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// Never [`Class::Success`].
    pub(crate) class: Class,
    /// Few words, the same for all of a kind.
    pub(crate) reason: Cow<'static, str>,
    /// What was seen this time.
    pub(crate) example: String,
}

impl Trouble {
    pub(crate) fn new(
        class: Class,
        reason: impl Into<Cow<'static, str>>,
        example: impl Into<String>,
    ) -> Box<Self> {
        Box::new(Self { class, reason: reason.into(), example: example.into() })
    }

    /// A response that is no 2xx.
    pub(crate) fn status(status: u16, body: &[u8]) -> Box<Self> {
        let class = if matches!(status, 429 | 503) { Class::Refused } else { Class::Error };
        Self::new(class, format!("status {status}"), excerpt(body))
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.example)
    }
}

/// The beginning of a body, on one line.
pub(crate) fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(400)]);
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut text: String = words.join(" ").chars().take(160).collect();
    if text.is_empty() {
        text.push_str("(nothing)");
    }
    text
}

/// What HAPA's response cache did, by the header `x-hapa-cache`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheOutcome {
    /// The server says nothing of a cache.
    None,
    /// Computed.
    Miss,
    /// Answered from the cache.
    Hit,
    /// Answered together with an identical request.
    Shared,
    /// The cache was not asked.
    Bypass,
}

impl CacheOutcome {
    /// All, in the order of a report.
    pub(crate) const ALL: [Self; 5] =
        [Self::None, Self::Miss, Self::Hit, Self::Shared, Self::Bypass];

    pub(crate) fn of(header: Option<&[u8]>) -> Self {
        match header {
            Some(b"miss") => Self::Miss,
            Some(b"shared") => Self::Shared,
            Some(b"bypass") => Self::Bypass,
            Some(text) if text.starts_with(b"hit") => Self::Hit,
            _ => Self::None,
        }
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::None => "computed",
            Self::Miss => "warm (cache miss)",
            Self::Hit => "cache hit",
            Self::Shared => "shared generation",
            Self::Bypass => "cache bypassed",
        }
    }
}
