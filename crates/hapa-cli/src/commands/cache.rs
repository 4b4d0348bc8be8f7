//! `hapa cache`: the answers on disk.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use hapa_service::{CacheError, DiskTier, SnapshotReader, SnapshotWriter, TierStats};
use serde_json::json;

use crate::console::{print, print_json};
use crate::error::{CliError, Result};
use crate::session::Session;
use crate::text::{bytes, duration};

/// Records that an import stores together.
const BATCH: usize = 256;

/// Look at, clear, export and import the answers on disk
///
/// What a running `hapa serve` holds in memory and has counted is at its /stats.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    Stats(Stats),
    Clear(Clear),
    Export(Export),
    Import(Import),
}

/// Show how many answers there are, and what they take
#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Remove all answers
#[derive(Debug, Args)]
pub(crate) struct Clear {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Write all answers to a file, for another machine or to keep
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The file; it appears only when whole
    #[arg(value_name = "FILE")]
    to: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Take in the answers of an exported file
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The file
    #[arg(value_name = "FILE")]
    from: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl CacheCommand {
    /// # Errors
    /// When the cache is turned off or its file can't be used.
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let Some(disk) = session.disk_tier()? else {
            return Err(CliError::usage(
                "no answers are kept on disk: the setting cache.disk is 0",
            ));
        };
        match self {
            Self::Stats(command) => command.run(&disk),
            Self::Clear(command) => command.run(&disk),
            Self::Export(command) => command.run(&disk),
            Self::Import(command) => command.run(&disk),
        }
    }
}

impl Stats {
    fn run(self, disk: &DiskTier) -> Result<()> {
        let there = disk.path().exists();
        if there {
            disk.open().map_err(|error| failed(&error))?;
        }
        let mut oldest = None;
        if there {
            disk.walk(false, |_, record| {
                oldest = Some(record.created);
                false
            })
            .map_err(|error| failed(&error))?;
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let age = oldest.map(|made| now.unwrap_or_default().saturating_sub(made));
        let TierStats { entries, bytes: taken, max_bytes, .. } = disk.stats();
        let (entries, taken) = (entries.unwrap_or(0), taken.unwrap_or(0));
        let file_bytes = std::fs::metadata(disk.path()).map_or(0, |file| file.len());
        if self.json {
            return print_json(&json!({
                "file": disk.path(),
                "entries": entries,
                "bytes": taken,
                "max_bytes": max_bytes,
                "file_bytes": file_bytes,
                "oldest_seconds": age.map(|age| age.as_secs()),
                "in_use_by_another_process": disk.is_read_only(),
            }));
        }
        let max = max_bytes.map(bytes).unwrap_or_default();
        let mut text = format!(
            "{}\n{entries} answers, {} of {max}; the file has {}\n",
            disk.path().display(),
            bytes(taken),
            bytes(file_bytes)
        );
        if let Some(age) = age {
            text.push_str(&format!("the oldest was made {} ago\n", duration(age)));
        }
        if disk.is_read_only() {
            text.push_str("in use by another hapa\n");
        }
        print(&text)
    }
}

impl Clear {
    fn run(self, disk: &DiskTier) -> Result<()> {
        let removed = if disk.path().exists() {
            writable(disk)?;
            disk.clear().map_err(|error| failed(&error))?
        } else {
            0
        };
        match self.json {
            true => print_json(&json!({ "removed": removed })),
            false => print(&format!("removed {removed} answers\n")),
        }
    }
}

impl Export {
    fn run(self, disk: &DiskTier) -> Result<()> {
        let io = |action, source| CliError::Io { action, path: self.to.clone(), source };
        let folder = self.to.parent().filter(|folder| !folder.as_os_str().is_empty());
        let part = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")));
        let part = part.map_err(|error| io("make a file beside", error))?;
        let written = (|| {
            let mut writer = SnapshotWriter::new(BufWriter::new(part.as_file()))?;
            let mut outcome = Ok(());
            if disk.path().exists() {
                let walked = disk.walk(false, |key, record| {
                    outcome = writer.write(&key, &record);
                    outcome.is_ok()
                });
                walked.map_err(std::io::Error::other)?;
            }
            outcome?;
            writer.finish()
        })();
        let written = written.map_err(|error| io("write", error))?;
        part.persist(&self.to).map_err(|error| io("write", error.error))?;
        match self.json {
            true => print_json(&json!({ "exported": written, "file": self.to })),
            false => print(&format!("{written} answers written to {}\n", self.to.display())),
        }
    }
}

impl Import {
    fn run(self, disk: &DiskTier) -> Result<()> {
        let io = |source| CliError::Io { action: "read", path: self.from.clone(), source };
        let file = File::open(&self.from).map_err(io)?;
        let mut reader = SnapshotReader::new(BufReader::new(file)).map_err(io)?;
        writable(disk)?;
        let mut batch = Vec::with_capacity(BATCH);
        let mut taken = 0;
        loop {
            let next = reader.next().transpose();
            let is_end = !matches!(next, Ok(Some(_)));
            if let Ok(Some(record)) = &next {
                batch.push(record.clone());
                taken += 1;
            }
            if batch.len() == BATCH || is_end && !batch.is_empty() {
                disk.put(&batch).map_err(|error| failed(&error))?;
                batch.clear();
            }
            if is_end {
                // What was whole before a fault is taken in; the fault is told.
                next.map_err(io)?;
                break;
            }
        }
        let passed_over = reader.passed_over();
        match self.json {
            true => print_json(&json!({ "imported": taken, "passed_over": passed_over })),
            false if passed_over > 0 => print(&format!(
                "{taken} answers taken in; {passed_over} were damaged or of another version\n"
            )),
            false => print(&format!("{taken} answers taken in\n")),
        }
    }
}

fn failed(error: &CacheError) -> CliError {
    CliError::Failed(error.to_string())
}

/// Opens the file for writing.
fn writable(disk: &DiskTier) -> Result<()> {
    disk.open().map_err(|error| failed(&error))?;
    if disk.is_read_only() {
        return Err(CliError::Failed(format!(
            "{} is in use by another hapa, probably `hapa serve`; stop it first",
            disk.path().display()
        )));
    }
    Ok(())
}
