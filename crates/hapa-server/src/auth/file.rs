//! The file of keys, as `hapa keys` writes it and the server reads it.
//!
//! JSON: `{version, salt, keys: [{id, name, tenant, hash, scopes, created, expires, revoked, rate}]}`. Times are seconds
//! since 1970, hashes are of BLAKE3 under the salt. No key can be read out of it. Revoked keys stay listed, so that
//! their names in logs keep a meaning.

use std::fs::File;
use std::io::Write;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::key::{ApiKey, Salt, Scope, hex, random};
use crate::state::unix_seconds;

const VERSION: u32 = 1;

/// A file of API keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    path: PathBuf,
}

/// A key to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// Whom or what it is for; must not be in use.
    pub name: String,
    /// What it may ask for; at least one.
    pub scopes: Vec<Scope>,
    /// Keys of one tenant share cached answers and prompts. `None` gives the key a tenant of its own.
    pub tenant: Option<String>,
    /// Most requests and tokens.
    pub rate: Rate,
    /// When it ends, in seconds since 1970.
    pub expires: Option<u64>,
}

impl NewKey {
    /// A key without limits, of a tenant of its own, that does not end.
    pub fn new(name: impl Into<String>, scopes: impl Into<Vec<Scope>>) -> Self {
        Self {
            name: name.into(),
            scopes: scopes.into(),
            tenant: None,
            rate: Rate::default(),
            expires: None,
        }
    }
}

/// Most requests and tokens a minute; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Requests a minute.
    pub requests: Option<NonZeroU32>,
    /// Tokens a minute, of prompts and answers together.
    pub tokens: Option<NonZeroU32>,
}

/// What is known of a key. Not the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct KeyRecord {
    /// Names it in logs and when it is revoked: `k_` and 8 hexadecimal digits.
    pub id: String,
    /// Whom or what it is for.
    pub name: String,
    /// Whose cached answers it shares.
    pub tenant: String,
    /// BLAKE3 of the key under the file's salt, in hexadecimal digits.
    hash: String,
    /// What it may ask for.
    pub scopes: Vec<Scope>,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// When it ends, in seconds since 1970.
    pub expires: Option<u64>,
    /// When it was revoked, in seconds since 1970.
    pub revoked: Option<u64>,
    /// Most requests and tokens.
    #[serde(default)]
    pub rate: Rate,
}

impl KeyRecord {
    /// `active`, `expired` or `revoked` at a time in seconds since 1970.
    pub fn state(&self, now: u64) -> &'static str {
        match (self.revoked, self.expires) {
            (Some(_), _) => "revoked",
            (None, Some(end)) if end <= now => "expired",
            _ => "active",
        }
    }
}

/// What a file of keys holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    version: u32,
    salt: String,
    keys: Vec<KeyRecord>,
}

/// The keys of a file, ready to be looked up.
pub(super) struct KeySet {
    salt: Salt,
    keys: Vec<(blake3::Hash, KeyRecord)>,
}

impl KeySet {
    /// The record of a key, whatever its state. Every hash is compared, so that the time tells nothing.
    pub(super) fn find(&self, key: &ApiKey) -> Option<&KeyRecord> {
        let asked = self.salt.hash(key);
        let mut found = None;
        for (hash, record) in &self.keys {
            if *hash == asked {
                found = Some(record);
            }
        }
        found
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &KeyRecord> {
        self.keys.iter().map(|(_, record)| record)
    }
}

/// What can go wrong with a file of keys.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The operating system refused.
    #[error("could not {action} the key file {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("the key file {} is damaged: {problem}; restore it, or remove it and make new keys with `hapa keys create`", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// What was asked for makes no sense.
    #[error("{0}")]
    Refused(String),
    /// There are no random numbers.
    #[error("the operating system has no random numbers for a key: {0}")]
    Random(String),
}

impl From<getrandom::Error> for KeyFileError {
    fn from(error: getrandom::Error) -> Self {
        Self::Random(error.to_string())
    }
}

impl KeyFile {
    /// The file at `path`, which need not be there yet.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All keys, the oldest first; none where there is no file.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn list(&self) -> Result<Vec<KeyRecord>, KeyFileError> {
        Ok(self.read()?.map(|contents| contents.keys).unwrap_or_default())
    }

    /// Makes a key and stores its hash. The key is nowhere but in the result.
    ///
    /// # Errors
    /// [`KeyFileError::Refused`] for a name that is in use or none, no scopes, or an end in the past; and whatever the
    /// file runs into.
    pub fn create(&self, new: NewKey) -> Result<(ApiKey, KeyRecord), KeyFileError> {
        let refuse = |problem: String| Err(KeyFileError::Refused(problem));
        let NewKey { name, mut scopes, tenant, rate, expires } = new;
        let plain = |text: &str| {
            let chars = text.chars().count();
            (1..=100).contains(&chars) && !text.chars().any(char::is_control)
        };
        if !plain(&name) || !tenant.as_deref().is_none_or(plain) {
            return refuse("a name has 1 to 100 printable characters".to_owned());
        }
        scopes.sort_unstable();
        scopes.dedup();
        if scopes.is_empty() {
            return refuse("a key needs at least one scope".to_owned());
        }
        let now = unix_seconds();
        if expires.is_some_and(|end| end <= now) {
            return refuse("the key would have ended already".to_owned());
        }
        let _lock = self.lock()?;
        let mut contents = match self.read()? {
            Some(contents) => contents,
            None => Contents { version: VERSION, salt: Salt::random()?.to_hex(), keys: Vec::new() },
        };
        if contents.keys.iter().any(|key| key.name == name && key.revoked.is_none()) {
            return refuse(format!(
                "there is a key named `{name}`; revoke it first, or take another name"
            ));
        }
        let id = loop {
            let id = format!("k_{}", hex(&random::<4>()?));
            if contents.keys.iter().all(|key| key.id != id) {
                break id;
            }
        };
        let key = ApiKey::random()?;
        let salt =
            Salt::from_hex(&contents.salt).ok_or_else(|| self.damaged("its salt is no hash"))?;
        let record = KeyRecord {
            tenant: tenant.unwrap_or_else(|| id.clone()),
            hash: salt.hash(&key).to_hex().to_string(),
            id,
            name,
            scopes,
            created: now,
            expires,
            revoked: None,
            rate,
        };
        contents.keys.push(record.clone());
        self.write(&contents)?;
        Ok((key, record))
    }

    /// Revokes the key with this id or name. Running servers refuse it within two seconds.
    ///
    /// # Errors
    /// [`KeyFileError::Refused`] when there is no such key that could be revoked; and whatever the file runs into.
    pub fn revoke(&self, id_or_name: &str) -> Result<KeyRecord, KeyFileError> {
        let _lock = self.lock()?;
        let mut contents = self.read()?;
        let keys =
            contents.as_mut().map(|contents| contents.keys.as_mut_slice()).unwrap_or_default();
        let found = keys
            .iter_mut()
            .find(|key| key.revoked.is_none() && (key.id == id_or_name || key.name == id_or_name));
        let Some(key) = found else {
            return Err(KeyFileError::Refused(format!(
                "there is no key `{id_or_name}` to revoke in {}; `hapa keys list` shows all",
                self.path.display()
            )));
        };
        key.revoked = Some(unix_seconds());
        let revoked = key.clone();
        if let Some(contents) = &contents {
            self.write(contents)?;
        }
        Ok(revoked)
    }

    /// The keys, to be looked up; `None` where there is no file.
    pub(super) fn load(&self) -> Result<Option<KeySet>, KeyFileError> {
        let Some(contents) = self.read()? else { return Ok(None) };
        let salt =
            Salt::from_hex(&contents.salt).ok_or_else(|| self.damaged("its salt is no hash"))?;
        let keys = contents.keys.into_iter().map(|record| {
            let hash = blake3::Hash::from_hex(&record.hash)
                .map_err(|_| self.damaged(&format!("the hash of {} is none", record.id)))?;
            Ok((hash, record))
        });
        Ok(Some(KeySet { salt, keys: keys.collect::<Result<_, KeyFileError>>()? }))
    }

    fn read(&self) -> Result<Option<Contents>, KeyFileError> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.io("read", source)),
        };
        let contents: Contents =
            serde_json::from_slice(&bytes).map_err(|error| self.damaged(&error.to_string()))?;
        match contents.version {
            VERSION => Ok(Some(contents)),
            other => Err(self.damaged(&format!("it has version {other}, {VERSION} is known"))),
        }
    }

    /// Replaces the file in one step, so that nobody ever reads half of it. Only its owner may read it.
    fn write(&self, contents: &Contents) -> Result<(), KeyFileError> {
        let failed = |source| self.io("write", source);
        let text =
            serde_json::to_string_pretty(contents).map_err(std::io::Error::from).map_err(failed)?;
        // Temporary files have mode 0600, and the new one keeps it.
        let mut file = tempfile::NamedTempFile::new_in(self.folder()).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&self.path).map_err(|error| failed(error.error))?;
        // The name is in the folder: without this a power cut may bring the old file back, and a revoked key with it.
        #[cfg(unix)]
        File::open(self.folder()).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Ok(())
    }

    /// Held by who changes the file. It is another file, since the file itself is replaced.
    fn lock(&self) -> Result<File, KeyFileError> {
        let failed = |source| self.io("lock", source);
        std::fs::create_dir_all(self.folder()).map_err(failed)?;
        let mut path = self.path.clone().into_os_string();
        path.push(".lock");
        let file =
            File::options().create(true).truncate(false).write(true).open(path).map_err(failed)?;
        file.lock().map_err(failed)?;
        Ok(file)
    }

    fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    fn io(&self, action: &'static str, source: std::io::Error) -> KeyFileError {
        KeyFileError::Io { action, path: self.path.clone(), source }
    }

    fn damaged(&self, problem: &str) -> KeyFileError {
        KeyFileError::Damaged { path: self.path.clone(), problem: problem.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str) -> NewKey {
        NewKey::new(name, [Scope::CodeGeneration])
    }

    #[test]
    fn keys_are_made_found_and_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeyFile::at(folder.path().join("below/keys.json"));
        assert_eq!(file.list().unwrap(), []);
        assert!(file.load().unwrap().is_none());
        let (key, record) = file.create(new("ci")).unwrap();
        let (other, _) = file.create(new("laptop")).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert!(!text.contains(&key.reveal()[5..]), "no key can be read out of the file");
        let set = file.load().unwrap().unwrap();
        assert_eq!(set.find(&key), Some(&record));
        assert_eq!(set.find(&other).unwrap().name, "laptop");
        assert_eq!(set.find(&ApiKey::random().unwrap()), None);
        assert!(file.create(new("ci")).unwrap_err().to_string().contains("another name"));
        assert_eq!(file.revoke("ci").unwrap().id, record.id);
        assert_eq!(file.load().unwrap().unwrap().find(&key).unwrap().state(0), "revoked");
        assert!(file.revoke("ci").is_err());
        file.create(new("ci")).unwrap();
        assert_eq!(file.list().unwrap().len(), 3, "revoked keys stay listed");
    }

    #[test]
    #[cfg(unix)]
    fn only_the_owner_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let file = KeyFile::at(folder.path().join("keys.json"));
        file.create(new("a")).unwrap();
        assert_eq!(std::fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn many_writers_lose_no_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeyFile::at(folder.path().join("keys.json"));
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let file = &file;
                scope.spawn(move || {
                    for number in 0..5 {
                        file.create(new(&format!("{writer}-{number}"))).unwrap();
                    }
                });
            }
        });
        assert_eq!(file.list().unwrap().len(), 20);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeyFile::at(folder.path().join("keys.json"));
        for bad in [
            NewKey { name: String::new(), ..new("x") },
            NewKey { name: "a\nb".to_owned(), ..new("x") },
            NewKey { scopes: Vec::new(), ..new("x") },
            NewKey { expires: Some(1), ..new("x") },
            NewKey { tenant: Some(String::new()), ..new("x") },
        ] {
            assert!(matches!(file.create(bad), Err(KeyFileError::Refused(_))));
        }
        assert!(!file.path().exists());
        for damaged in ["", "{}", "{\"version\":2,\"salt\":\"\",\"keys\":[]}"] {
            std::fs::write(file.path(), damaged).unwrap();
            assert!(matches!(file.load(), Err(KeyFileError::Damaged { .. })), "{damaged}");
        }
    }
}
