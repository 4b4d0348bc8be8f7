//! Running a program that a model wrote: in a process of its own, with limits on processor time, memory, files, network
//! and wall-clock time, in a folder that vanishes.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::LoadError;

const GUARD: &str = include_str!("guard.py");
/// How often a running program is looked at.
const POLL: Duration = Duration::from_millis(5);
/// Time beyond the limit for Python itself to start on a busy machine.
const GRACE: Duration = Duration::from_secs(10);

/// What a program may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JudgeLimits {
    /// Processor time, in whole seconds.
    pub cpu: Duration,
    /// Address space.
    pub memory_bytes: u64,
    /// Each file that it writes.
    pub file_bytes: u64,
}

impl Default for JudgeLimits {
    /// As long as the paper's harness allows, 1 GiB, 1 MiB.
    fn default() -> Self {
        Self { cpu: Duration::from_secs(3), memory_bytes: 1 << 30, file_bytes: 1 << 20 }
    }
}

/// What came of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "verdict", content = "reason")]
pub enum Verdict {
    /// It ran to its end.
    Passed,
    /// It raised something, or ended before its end.
    Failed(String),
    /// It used up its time.
    TimedOut,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
            Self::TimedOut => f.write_str("timed out"),
        }
    }
}

/// Runs programs.
#[derive(Debug, Clone)]
pub struct Judge {
    python: PathBuf,
    /// A command that takes the network away, ahead of Python; empty where the system has none that works here.
    cage: Vec<&'static str>,
    limits: JudgeLimits,
}

impl Judge {
    /// Finds Python and, on Linux, a way to take the network away.
    pub fn new(limits: JudgeLimits) -> Result<Self, LoadError> {
        let missing = |reason: String| LoadError::Judge { reason };
        let asked = Command::new("python3")
            .args(["-c", "import sys; print(sys.executable)"])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| missing(format!("`python3` could not be started ({error})")))?;
        let python = String::from_utf8_lossy(&asked.stdout).trim().to_owned();
        if !asked.status.success() || python.is_empty() {
            return Err(missing("`python3` does not work; install Python 3.8 or newer".to_owned()));
        }
        let cages: [&[&str]; 2] =
            [&["unshare", "--net"], &["unshare", "--user", "--map-root-user", "--net"]];
        let works = |cage: &&[&str]| {
            let mut command = Command::new(cage[0]);
            command.args(&cage[1..]).arg("true").stdin(Stdio::null());
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        let cage = cages.into_iter().find(works).unwrap_or_default();
        Ok(Self { python: python.into(), cage: cage.to_vec(), limits })
    }

    /// Whether programs have no network at all, rather than being kept from it by Python's own hooks.
    pub fn has_cage(&self) -> bool {
        !self.cage.is_empty()
    }

    /// Runs a program. An error is one of this machine, never of the program.
    pub fn run(&self, program: &str) -> Result<Verdict, LoadError> {
        let failed = |error: std::io::Error| LoadError::Judge {
            reason: format!("{} could not be run: {error}", self.python.display()),
        };
        let folder = tempfile::tempdir().map_err(failed)?;
        let word = format!("{:016x}", RandomState::new().build_hasher().finish());
        let mut command = match self.cage.split_first() {
            Some((cage, arguments)) => {
                let mut command = Command::new(cage);
                command.args(arguments).arg(&self.python);
                command
            }
            None => Command::new(&self.python),
        };
        command
            .args(["-I", "-c", GUARD, &word])
            .arg(self.limits.cpu.as_secs().max(1).to_string())
            .arg(self.limits.memory_bytes.to_string())
            .arg(self.limits.file_bytes.to_string())
            .current_dir(folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs([("HOME", folder.path()), ("TMPDIR", folder.path())])
            .envs([("PYTHONDONTWRITEBYTECODE", "1"), ("OMP_NUM_THREADS", "1")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A child that is gone already says why by its silence.
            let _ = stdin.write_all(program.as_bytes());
        }
        if !wait(&mut child, self.limits.cpu + GRACE).map_err(failed)? {
            return Ok(Verdict::TimedOut);
        }
        let mut told = String::new();
        if let Some(mut stdout) = child.stdout.take() {
            let _ = stdout.read_to_string(&mut told);
        }
        let status = child.wait().map_err(failed)?;
        let last = told.lines().rev().find_map(|line| line.strip_prefix(&word));
        Ok(match last.map(str::trim) {
            Some("passed") => Verdict::Passed,
            Some(other) => {
                Verdict::Failed(other.strip_prefix("failed: ").unwrap_or(other).to_owned())
            }
            None if killed_for_time(status) => Verdict::TimedOut,
            None => Verdict::Failed(format!("ended before its end ({status})")),
        })
    }
}

/// Whether the child ended by itself; one that did not is killed.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<bool> {
    let end = Instant::now() + limit;
    while child.try_wait()?.is_none() {
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        std::thread::sleep(POLL);
    }
    Ok(true)
}

#[cfg(unix)]
fn killed_for_time(status: std::process::ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    // SIGXCPU, and SIGKILL where the hard limit was reached at once.
    const SIGKILL: i32 = 9;
    const SIGXCPU: i32 = 24;
    matches!(status.signal(), Some(SIGKILL | SIGXCPU))
}

#[cfg(not(unix))]
fn killed_for_time(_: std::process::ExitStatus) -> bool {
    false
}
