//! Files of results that grow by lines, so that a run that was broken off goes on where it was. The first line tells the
//! conditions, without which results do not compare.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{CliError, Result};

/// A file that results are added to.
pub(super) struct Results {
    file: std::fs::File,
    path: PathBuf,
}

impl Results {
    /// Opens a file to add to; a new one begins with the conditions.
    pub(super) fn open(path: &Path, conditions: &impl Serialize) -> Result<Self> {
        let failed = |source| CliError::Io { action: "write", path: path.to_owned(), source };
        let mut options = std::fs::File::options();
        let file = options.create(true).read(true).append(true).open(path).map_err(failed)?;
        let mut results = Self { file, path: path.to_owned() };
        if results.file.metadata().map_err(failed)?.len() == 0 {
            results.add(conditions)?;
        } else if !results.ends_a_line().map_err(failed)? {
            // The last run was ended in the middle of a line: the next result must not become a part of it.
            results.file.write_all(b"\n").map_err(failed)?;
        }
        Ok(results)
    }

    fn ends_a_line(&mut self) -> std::io::Result<bool> {
        let mut last = [0];
        self.file.seek(SeekFrom::End(-1))?;
        self.file.read_exact(&mut last)?;
        Ok(last == *b"\n")
    }

    /// Adds one line.
    pub(super) fn add(&mut self, line: &impl Serialize) -> Result<()> {
        let failed = |source| CliError::Io { action: "write", path: self.path.clone(), source };
        let text = serde_json::to_string(line).map_err(|error| failed(error.into()))?;
        self.file.write_all((text + "\n").as_bytes()).map_err(failed)
    }
}

/// What a file of results holds; a line that was cut off is no result. `flags` names what the conditions come from.
pub(super) fn read<C, R>(path: &Path, conditions: &C, flags: &str) -> Result<Vec<R>>
where
    C: PartialEq + DeserializeOwned,
    R: DeserializeOwned,
{
    let text = match std::fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => text,
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(CliError::Io { action: "read", path: path.to_owned(), source: error });
        }
        _ => return Ok(Vec::new()),
    };
    let mut lines = text.lines();
    let found: Option<C> = lines.next().and_then(|line| serde_json::from_str(line).ok());
    if found.as_ref() != Some(conditions) {
        return Err(CliError::usage(format!(
            "{} holds results of other conditions; give another --output, or the same {flags}",
            path.display()
        )));
    }
    Ok(lines.filter_map(|line| serde_json::from_str(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_cut_off_costs_only_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.jsonl");
        assert!(read::<u32, String>(&path, &7, "x").unwrap().is_empty());
        Results::open(&path, &7).unwrap().add(&"a").unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{whole}\"cut of")).unwrap();
        Results::open(&path, &7).unwrap().add(&"b").unwrap();
        assert_eq!(read::<u32, String>(&path, &7, "x").unwrap(), ["a", "b"]);
        let error = read::<u32, String>(&path, &8, "--seed").unwrap_err().to_string();
        assert!(error.contains("the same --seed"), "{error}");
    }
}
