//! Kinds of values that settings have beside plain numbers and texts. Each is written as people write it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use hapa_model::KeepAlive;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes: `4096`, `64MiB`, `1.5GB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteSize(pub(crate) u64);

const UNITS: [(&str, u64); 9] = [
    ("tib", 1 << 40),
    ("gib", 1 << 30),
    ("mib", 1 << 20),
    ("kib", 1 << 10),
    ("tb", 1_000_000_000_000),
    ("gb", 1_000_000_000),
    ("mb", 1_000_000),
    ("kb", 1_000),
    ("b", 1),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid =
            || format!("`{text}` is no size; expected bytes or a unit, as in 4096, 64MiB or 1.5GB");
        let lower = text.trim().to_ascii_lowercase();
        let unit = UNITS.iter().find(|(name, _)| lower.ends_with(name));
        let (number, scale) = match unit {
            Some((name, scale)) => (&lower[..lower.len() - name.len()], *scale),
            None => (lower.as_str(), 1),
        };
        let number = number.trim();
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(scale).map(Self).ok_or_else(invalid);
        }
        let digits = |c: char| c.is_ascii_digit() || c == '.';
        let part = number.parse::<f64>().ok().filter(|_| number.chars().all(digits));
        let bytes = part.map(|part| part * scale as f64).filter(|b| *b <= (1_u64 << 53) as f64);
        bytes.map(|bytes| Self(bytes as u64)).ok_or_else(invalid)
    }
}

impl fmt::Display for ByteSize {
    /// The largest binary unit that it is a whole number of.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, unit) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 > 0 && self.0.is_multiple_of(unit) {
                return write!(f, "{}{name}", self.0 / unit);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// A time after which something ends: `30s`, `10m`, `1h`, `7d`, `0`, `never`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Period(pub(crate) KeepAlive);

impl Period {
    pub(crate) const NEVER: Self = Self(KeepAlive::Forever);

    pub(crate) fn of(time: Duration) -> Self {
        Self(KeepAlive::For(time))
    }

    /// `None` is never.
    pub(crate) fn duration(self) -> Option<Duration> {
        match self.0 {
            KeepAlive::For(time) => Some(time),
            KeepAlive::Forever => None,
        }
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().eq_ignore_ascii_case("never") {
            return Ok(Self::NEVER);
        }
        text.parse().map(Self).map_err(|_| {
            format!("`{text}` is no time; expected one such as 30s, 10m, 1h, 7d, 0 or never")
        })
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            KeepAlive::Forever => f.write_str("never"),
            keep => keep.fmt(f),
        }
    }
}

/// A value that HAPA decides when none is given, which is written as an empty text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Auto<T>(pub(crate) Option<T>);

impl<T: FromStr> FromStr for Auto<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        if text.trim().is_empty() { Ok(Self(None)) } else { text.parse().map(|v| Self(Some(v))) }
    }
}

impl<T: fmt::Display> fmt::Display for Auto<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |value| value.fmt(f))
    }
}

/// Names, written as one text with commas between them, or in a file as an array.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names(pub(crate) Vec<String>);

impl Serialize for Names {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.join(", "))
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "expected names with commas between them, or an array of them"
        )]
        enum Written {
            Text(String),
            Array(Vec<String>),
        }
        let written = match Written::deserialize(deserializer)? {
            Written::Text(text) => text.split(',').map(str::to_owned).collect(),
            Written::Array(names) => names,
        };
        let names = written.iter().map(|name| name.trim()).filter(|name| !name.is_empty());
        Ok(Self(names.map(str::to_owned).collect()))
    }
}

/// serde for values that are written as texts; a bare number is as good as one in quotes.
pub(super) mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::settings) fn serialize<T: Display, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a text")]
    enum Written {
        Text(String),
        Number(i64),
    }

    pub(in crate::settings) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let written = match Written::deserialize(deserializer)? {
            Written::Text(text) => text,
            Written::Number(number) => number.to_string(),
        };
        written.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let bytes = |text: &str| text.parse::<ByteSize>().map(|size| size.0);
        assert_eq!(bytes("4096"), Ok(4096));
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert_eq!(bytes("1.5GB"), Ok(1_500_000_000));
        assert_eq!(bytes(" 2 kib "), Ok(2048));
        assert_eq!(bytes("0"), Ok(0));
        for wrong in ["", "MiB", "-1", "1e9", "inf", "nan", "1.2.3", "64 apples", "99999999TiB"] {
            let error = bytes(wrong).unwrap_err();
            assert!(error.contains("64MiB"), "{wrong}: {error}");
        }
        for size in [0, 1, 1000, 1024, 64 << 20, 3 << 30, u64::MAX] {
            assert_eq!(bytes(&ByteSize(size).to_string()), Ok(size));
        }
        assert_eq!(ByteSize(64 << 20).to_string(), "64MiB");
    }

    #[test]
    fn names_are_a_text_or_an_array() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Named {
            models: Names,
        }
        let read = |text: &str| toml::from_str::<Named>(text).map(|named| named.models.0);
        assert_eq!(read("models = ''").unwrap(), [""; 0]);
        assert_eq!(read("models = ' a, b:Q4 ,,c/d.gguf '").unwrap(), ["a", "b:Q4", "c/d.gguf"]);
        assert_eq!(read("models = ['a', ' b, c ']").unwrap(), ["a", "b, c"]);
        assert!(read("models = 3").unwrap_err().to_string().contains("with commas"));
        let shown = Named { models: Names(vec!["a".into(), "b".into()]) };
        assert_eq!(toml::to_string(&shown).unwrap().trim(), "models = \"a, b\"");
    }

    #[test]
    fn periods() {
        let period = |text: &str| text.parse::<Period>().map(Period::duration);
        assert_eq!(period("never"), Ok(None));
        assert_eq!(period("-1"), Ok(None));
        assert_eq!(period("10m"), Ok(Some(Duration::from_mins(10))));
        assert_eq!(period("0"), Ok(Some(Duration::ZERO)));
        assert!(period("soon").unwrap_err().contains("never"));
        assert_eq!(Period::NEVER.to_string(), "never");
    }
}
