//! What a key looks like, what it allows, and what is stored of it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How every key begins: scanners for leaked secrets find it by that.
const PREFIX: &str = "hapa_";
const SECRET_DIGITS: usize = 32;

/// A key as its holder has it: `hapa_` and 32 hexadecimal digits, 128 random bits.
///
/// It is shown once, when it is made. [`fmt::Debug`] does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// A new key out of the operating system's random numbers.
    ///
    /// # Errors
    /// When the operating system has none.
    pub(super) fn random() -> Result<Self, getrandom::Error> {
        Ok(Self(format!("{PREFIX}{}", hex(&random::<{ SECRET_DIGITS / 2 }>()?))))
    }

    /// The key in a text, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX)?;
        let lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let whole = digits.len() == SECRET_DIGITS && digits.bytes().all(lower_hex);
        whole.then(|| Self(text.to_owned()))
    }

    /// The key itself: a secret.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(hapa_…)")
    }
}

/// What a key may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Scope {
    /// Questions, chats and raw prompts.
    CodeGeneration,
    /// Completions at a cursor.
    CodeCompletion,
    /// Everything, and what the server knows of itself: metrics, statistics, traces, profiles.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 3] = [Self::CodeGeneration, Self::CodeCompletion, Self::Admin];

    /// The name in files and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CodeGeneration => "code_generation",
            Self::CodeCompletion => "code_completion",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|scope| scope.as_str()).collect();
            format!("there is no scope `{text}`; {} are known", known.join(", "))
        })
    }
}

/// The salt of a key file: hashes in one file tell nothing about another.
///
/// A key is 128 random bits, which nobody guesses, so that a slow hash made for passwords would add nothing but a
/// way to keep the server busy. One salt for the file, and not one a key, makes a look-up one hash however many keys
/// there are.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Salt([u8; 32]);

impl Salt {
    pub(super) fn random() -> Result<Self, getrandom::Error> {
        random().map(Self)
    }

    pub(super) fn from_hex(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text).ok().map(|hash| Self(*hash.as_bytes()))
    }

    pub(super) fn to_hex(&self) -> String {
        hex(&self.0)
    }

    /// BLAKE3's keyed hash; the comparison of two hashes takes the same time wherever they differ.
    pub(super) fn hash(&self, key: &ApiKey) -> blake3::Hash {
        blake3::keyed_hash(&self.0, key.0.as_bytes())
    }
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_one_form() {
        let key = ApiKey::random().unwrap();
        assert_eq!(ApiKey::parse(key.reveal()).as_ref(), Some(&key));
        assert_ne!(ApiKey::random().unwrap(), key);
        assert!(!format!("{key:?}").contains(&key.reveal()[5..]));
        let digits = "0123456789abcdef".repeat(2);
        assert!(ApiKey::parse(&format!("hapa_{digits}")).is_some());
        for bad in [
            digits.clone(),
            format!("HAPA_{digits}"),
            format!("hapa_{digits}0"),
            format!("hapa_{}", &digits[1..]),
            format!("hapa_{}", digits.to_uppercase()),
            format!(" hapa_{digits}"),
            "hapa_".to_owned(),
            String::new(),
        ] {
            assert_eq!(ApiKey::parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn hashes_depend_on_salt_and_key() {
        let (salt, other) = (Salt::random().unwrap(), Salt::random().unwrap());
        let key = ApiKey::random().unwrap();
        assert_eq!(salt.hash(&key), salt.hash(&key));
        assert_ne!(salt.hash(&key), other.hash(&key));
        assert_ne!(salt.hash(&key), salt.hash(&ApiKey::random().unwrap()));
        assert_eq!(Salt::from_hex(&salt.to_hex()).as_ref().map(Salt::to_hex), Some(salt.to_hex()));
    }

    #[test]
    fn scopes_have_names() {
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(scope));
            assert_eq!(serde_json::to_string(&scope).unwrap(), format!("\"{scope}\""));
        }
        assert!("root".parse::<Scope>().unwrap_err().contains("code_generation"));
    }
}
