//! The merge: dotted keys, each with its value and where that came from.

use std::fmt;
use std::path::PathBuf;

use hapa_model::text::edit_distance;
use toml::{Table, Value};

use crate::error::{CliError, Result};
use crate::settings::Settings;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nobody set it.
    Default,
    /// A line of a file.
    File { path: PathBuf, line: usize },
    /// An environment variable.
    Variable(String),
    /// A flag of the command.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// Settings that flags of a command gave, by key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flags(pub(super) Vec<(&'static str, Value, &'static str)>);

impl Flags {
    /// Notes a flag that was given.
    pub(crate) fn set<T: Into<Value>>(
        &mut self,
        key: &'static str,
        value: Option<T>,
        flag: &'static str,
    ) -> &mut Self {
        self.0.extend(value.map(|value| (key, value.into(), flag)));
        self
    }
}

/// All settings with their sources, in the order of the defaults.
#[derive(Debug, Clone)]
pub(crate) struct Layers(Vec<Entry>);

#[derive(Debug, Clone)]
struct Entry {
    key: String,
    value: Value,
    source: Source,
}

impl Layers {
    /// The built-in layer, which names every key.
    pub(super) fn defaults() -> Result<Self> {
        let table = Table::try_from(Settings::default())
            .map_err(|e| CliError::Failed(format!("the built-in settings: {e}")))?;
        let mut entries = Vec::new();
        flatten("", table, &mut |key, value| {
            entries.push(Entry { key, value, source: Source::Default });
        });
        Ok(Self(entries))
    }

    /// Puts a value over what is there.
    ///
    /// # Errors
    /// [`CliError::Usage`] that names the place, for an unknown key or a value that does not fit it.
    pub(super) fn put(&mut self, key: &str, value: Value, source: Source) -> Result<()> {
        let Some(index) = self.0.iter().position(|entry| entry.key == key) else {
            return Err(CliError::usage(format!("{source}: {}", self.unknown(key))));
        };
        let entry = Entry { key: key.to_owned(), value, source };
        let alone = Self(vec![entry.clone()]);
        if let Err(problem) = alone.typed() {
            return Err(CliError::usage(format!("{}: `{key}`: {problem}", entry.source)));
        }
        self.0[index] = entry;
        Ok(())
    }

    /// Reads a text, as variables have it, as the kind of value that the key has.
    pub(super) fn read(&self, key: &str, text: &str) -> Option<Value> {
        let entry = self.0.iter().find(|entry| entry.key == key)?;
        let text = text.trim();
        let read = match entry.value {
            Value::Integer(_) => text.parse().ok().map(Value::Integer),
            Value::Float(_) => text.parse().ok().map(Value::Float),
            Value::Boolean(_) => match text.to_ascii_lowercase().as_str() {
                "1" | "true" | "yes" | "on" => Some(Value::Boolean(true)),
                "" | "0" | "false" | "no" | "off" => Some(Value::Boolean(false)),
                _ => None,
            },
            _ => None,
        };
        // What cannot be read as that stays a text, and the text does not fit: one message for all layers.
        Some(read.unwrap_or_else(|| Value::String(text.to_owned())))
    }

    /// All keys.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|entry| entry.key.as_str())
    }

    pub(super) fn unknown(&self, key: &str) -> String {
        let nearest = self.keys().min_by_key(|known| {
            // A key without its table, or with the wrong one, is near.
            let last = known.rsplit('.').next().unwrap_or(known);
            edit_distance(key, known)
                .min(edit_distance(key.rsplit('.').next().unwrap_or(key), last) + 1)
        });
        match nearest.filter(|near| edit_distance(key, near) <= near.len() / 2) {
            Some(near) => format!("there is no setting `{key}`; did you mean `{near}`?"),
            None => format!("there is no setting `{key}`; `hapa serve --print-config` shows all"),
        }
    }

    /// Keys that have another value there.
    pub(crate) fn changed(&self, there: &Self) -> Vec<&str> {
        let pairs = self.0.iter().zip(&there.0);
        pairs.filter(|(a, b)| a.value != b.value).map(|(a, _)| a.key.as_str()).collect()
    }

    /// The settings that the layers make.
    ///
    /// # Errors
    /// [`CliError::Failed`]; each value was tried when it was put.
    pub(crate) fn settings(&self) -> Result<Settings> {
        self.typed().map_err(|e| CliError::Failed(format!("the settings do not fit together: {e}")))
    }

    fn typed(&self) -> Result<Settings, String> {
        let mut root = Table::new();
        for Entry { key, value, .. } in &self.0 {
            let mut table = &mut root;
            let mut parts = key.split('.').peekable();
            while let Some(part) = parts.next() {
                if parts.peek().is_none() {
                    table.insert(part.to_owned(), value.clone());
                    break;
                }
                let below = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
                let Value::Table(below) = below else { break };
                table = below;
            }
        }
        root.try_into().map_err(|e: toml::de::Error| e.message().to_owned())
    }
}

impl fmt::Display for Layers {
    /// A settings file whose comments say where each value came from.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = "";
        for Entry { key, value, source } in &self.0 {
            let (above, name) = key.rsplit_once('.').unwrap_or(("", key));
            if above != table {
                write!(f, "\n[{above}]\n")?;
                table = above;
            }
            writeln!(f, "{name} = {value} # {source}")?;
        }
        Ok(())
    }
}

/// Calls `each` with every value below a table and its dotted key.
pub(super) fn flatten(above: &str, table: Table, each: &mut impl FnMut(String, Value)) {
    for (name, value) in table {
        let key = if above.is_empty() { name } else { format!("{above}.{name}") };
        match value {
            Value::Table(table) => flatten(&key, table, each),
            value => each(key, value),
        }
    }
}
