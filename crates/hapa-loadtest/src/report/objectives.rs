//! What a request must keep to count as good.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::client::nanoseconds;
use crate::error::LoadError;

/// Bounds on the latencies of a request; goodput counts the requests that keep all of them. In text:
/// `ttft=200ms,tpot=50ms,e2e=3s`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Objectives {
    /// Most time to the first token.
    #[serde(
        rename = "ttft_seconds",
        with = "seconds",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub ttft: Option<Duration>,
    /// Most time per output token after the first.
    #[serde(
        rename = "tpot_seconds",
        with = "seconds",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub tpot: Option<Duration>,
    /// Most time to the end.
    #[serde(
        rename = "e2e_seconds",
        with = "seconds",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub e2e: Option<Duration>,
}

mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(|value| value.as_secs_f64()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let value = Option::<f64>::deserialize(deserializer)?;
        value.map(Duration::try_from_secs_f64).transpose().map_err(serde::de::Error::custom)
    }
}

impl Objectives {
    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a successful request with these nanoseconds is good. A bound on a time that the request does not have,
    /// because its answer came in one piece, is kept if the time to the end keeps it.
    pub(crate) fn met(&self, first: Option<u64>, per_token: Option<u64>, whole: u64) -> bool {
        let keeps = |bound: Option<Duration>, time| bound.is_none_or(|b| time <= nanoseconds(b));
        keeps(self.ttft, first.unwrap_or(whole))
            && keeps(self.tpot, per_token.unwrap_or(0))
            && keeps(self.e2e, whole)
    }
}

impl fmt::Display for Objectives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bounds = [("ttft", self.ttft), ("tpot", self.tpot), ("e2e", self.e2e)];
        let mut first = true;
        for (name, bound) in bounds {
            if let Some(bound) = bound {
                let comma = if first { "" } else { "," };
                write!(f, "{comma}{name}={}ms", bound.as_secs_f64() * 1e3)?;
                first = false;
            }
        }
        Ok(())
    }
}

impl FromStr for Objectives {
    type Err = LoadError;

    fn from_str(text: &str) -> Result<Self, LoadError> {
        let bad = |reason: String| LoadError::option("goodput", reason);
        let mut objectives = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part
                .split_once(['=', ':'])
                .ok_or_else(|| bad(format!("`{part}` is not like ttft=200ms")))?;
            let bound = parse_duration(value).map_err(&bad)?;
            let place = match name.trim() {
                "ttft" => &mut objectives.ttft,
                "tpot" => &mut objectives.tpot,
                "e2e" | "e2el" => &mut objectives.e2e,
                other => return Err(bad(format!("`{other}` is none of ttft, tpot, e2e"))),
            };
            *place = Some(bound);
        }
        Ok(objectives)
    }
}

/// A time like `200ms`, `1.5s`, `2m` or `1h`. A bare number is refused: tools differ in what it would mean.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "" => return Err(format!("`{text}` has no unit; say {text}ms or {text}s")),
        _ => return Err(format!("`{text}` is no time like 200ms, 1.5s, 2m or 1h")),
    };
    let number: f64 =
        number.trim().parse().map_err(|_| format!("`{text}` is no time like 200ms or 1.5s"))?;
    Duration::try_from_secs_f64(number * scale)
        .map_err(|_| format!("`{text}` is not a time of 0 or more"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let objectives: Objectives = "ttft=200ms, tpot:50ms,e2e=3s".parse().unwrap();
        assert_eq!(objectives.e2e, Some(Duration::from_secs(3)));
        assert_eq!(objectives.to_string(), "ttft=200ms,tpot=50ms,e2e=3000ms");
        assert_eq!(objectives.to_string().parse::<Objectives>().unwrap(), objectives);
        let json = serde_json::to_string(&objectives).unwrap();
        assert_eq!(serde_json::from_str::<Objectives>(&json).unwrap(), objectives);
        for (bad, expected) in [
            ("ttft=200", "no unit"),
            ("ttfb=1s", "none of ttft"),
            ("ttft", "not like"),
            ("ttft=-1s", "0 or more"),
            ("ttft=1y", "no time"),
        ] {
            let error = bad.parse::<Objectives>().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn all_bounds_must_be_kept() {
        let objectives: Objectives = "ttft=2us,e2e=9us".parse().unwrap();
        assert!(objectives.met(Some(2000), None, 9000));
        assert!(!objectives.met(Some(2001), None, 9000));
        assert!(!objectives.met(Some(2000), None, 9001));
        assert!(!objectives.met(None, None, 9000));
        assert!(Objectives::default().met(None, None, u64::MAX));
    }
}
