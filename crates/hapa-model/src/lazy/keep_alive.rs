//! How long an idle value stays loaded.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::ModelError;

/// How long a loaded model that nobody uses stays in memory.
///
/// Written as `10m`, `30s`, `1h`, `500ms`, as a number of seconds, `0` (at once) or any negative number (for ever).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeepAlive {
    /// Unload after this much idle time; zero means as soon as the last user is gone.
    For(Duration),
    /// Never unload by itself.
    Forever,
}

impl Default for KeepAlive {
    /// Ten minutes.
    fn default() -> Self {
        Self::For(Duration::from_mins(10))
    }
}

impl KeepAlive {
    /// From seconds; negative means for ever.
    pub fn from_seconds(seconds: i64) -> Self {
        u64::try_from(seconds)
            .map_or(Self::Forever, |seconds| Self::For(Duration::from_secs(seconds)))
    }
}

const UNITS_MS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl FromStr for KeepAlive {
    type Err = ModelError;

    /// # Errors
    /// [`ModelError::InvalidOption`] for anything but a whole number with an optional unit.
    fn from_str(text: &str) -> Result<Self, ModelError> {
        let invalid = || ModelError::InvalidOption {
            option: "keep_alive",
            value: text.to_owned(),
            expected: "a time such as 10m, 30s, 1h or 500ms, 0 to unload at once, or a negative number for never",
        };
        let trimmed = text.trim();
        let (negative, rest) = match trimmed.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, trimmed),
        };
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| invalid())?;
        let unit = unit.trim().to_ascii_lowercase();
        let unit_ms = match unit.as_str() {
            "" => 1000,
            unit => UNITS_MS.iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?.1,
        };
        if negative {
            return Ok(Self::Forever);
        }
        let milliseconds = number.checked_mul(unit_ms).ok_or_else(invalid)?;
        Ok(Self::For(Duration::from_millis(milliseconds)))
    }
}

impl fmt::Display for KeepAlive {
    /// A form that [`FromStr`] reads back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::For(time) = self else { return f.write_str("-1") };
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if milliseconds == 0 {
            return f.write_str("0");
        }
        let whole = UNITS_MS.iter().rev().find(|(_, unit)| milliseconds.is_multiple_of(*unit));
        let (name, unit) = whole.copied().unwrap_or(("ms", 1));
        write!(f, "{}{name}", milliseconds / unit)
    }
}

impl Serialize for KeepAlive {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeepAlive {
    /// From a text as above, or from a number of seconds.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Wire {
            Seconds(i64),
            Text(String),
        }
        match Wire::deserialize(deserializer)? {
            Wire::Seconds(seconds) => Ok(Self::from_seconds(seconds)),
            Wire::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form() {
        let cases = [
            ("10m", KeepAlive::For(Duration::from_mins(10))),
            ("30s", KeepAlive::For(Duration::from_secs(30))),
            ("90", KeepAlive::For(Duration::from_secs(90))),
            ("500ms", KeepAlive::For(Duration::from_millis(500))),
            (" 1 h ", KeepAlive::For(Duration::from_hours(1))),
            ("0", KeepAlive::For(Duration::ZERO)),
            ("0s", KeepAlive::For(Duration::ZERO)),
            ("-1", KeepAlive::Forever),
            ("-5m", KeepAlive::Forever),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<KeepAlive>().expect(text), expected, "{text}");
        }
        for text in
            ["", "m", "10x", "1.5h", "--1", "ten", "99999999999999999999", "18446744073709551615h"]
        {
            let error = text.parse::<KeepAlive>().expect_err(text).to_string();
            assert!(error.contains("10m"), "{error}");
        }
    }

    #[test]
    fn numbers_and_texts_in_settings() {
        let read = |json: &str| serde_json::from_str::<KeepAlive>(json);
        assert_eq!(read("0").expect("number"), KeepAlive::For(Duration::ZERO));
        assert_eq!(read("-1").expect("number"), KeepAlive::Forever);
        assert_eq!(read("\"10m\"").expect("text"), KeepAlive::default());
        assert!(read("\"soon\"").is_err());
    }

    proptest! {
        #[test]
        fn shown_and_read_back(milliseconds in 0_u64..100_000_000_000) {
            let keep = KeepAlive::For(Duration::from_millis(milliseconds));
            prop_assert_eq!(keep.to_string().parse::<KeepAlive>().ok(), Some(keep));
        }
    }
}
