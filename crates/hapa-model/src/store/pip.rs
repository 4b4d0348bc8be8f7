//! Running `pip download` so that it can be watched, cancelled, and never outlives us.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::store::layout::bytes_below;
use crate::store::route::POLL;

/// Runs pip as a module, and ends it when our end of its standard input closes: when this process dies, however it dies,
/// no download goes on behind the user's back.
///
/// The folder that the user stands in leaves the module path first: a `pip.py` lying there must not run.
const BOOTSTRAP: &str = "\
import sys
if sys.path and sys.path[0] == '':
    del sys.path[0]
import os, runpy, threading
def leave_with_parent():
    os.read(0, 1)
    os._exit(130)
threading.Thread(target=leave_with_parent, daemon=True).start()
sys.argv[0] = 'pip'
runpy.run_module('pip', run_name='__main__', alter_sys=True)
";

/// A way to start pip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pip {
    /// A Python interpreter that has the module.
    Module(PathBuf),
    /// The command alone.
    Command(PathBuf),
}

/// Why pip delivered nothing.
#[derive(Debug)]
pub(crate) enum PipError {
    /// This way to start pip does not exist here.
    Missing,
    /// The watcher said stop.
    Stopped,
    /// The disk is full.
    NoSpace,
    /// Anything else, in pip's words.
    Failed(String),
}

impl Pip {
    /// The ways to look for pip, best first; only `python` when that is given.
    pub(crate) fn candidates(python: Option<&Path>) -> Vec<Self> {
        if let Some(python) = python {
            return vec![Self::Module(python.to_owned())];
        }
        let modules = ["python3", "python"].map(|name| Self::Module(name.into()));
        let commands = ["pip3", "pip"].map(|name| Self::Command(name.into()));
        modules.into_iter().chain(commands).collect()
    }

    fn command(&self) -> Command {
        match self {
            Self::Module(python) => {
                let mut command = Command::new(python);
                command.args(["-c", BOOTSTRAP]);
                command
            }
            Self::Command(pip) => Command::new(pip),
        }
    }

    /// Version and interpreter, as `pip --version` tells them; `None` when this way does not work within 5 seconds.
    pub(crate) fn version(&self) -> Option<String> {
        let mut command = self.command();
        command.arg("--version").env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().ok()?;
        let end = Instant::now() + Duration::from_secs(5);
        let good = wait(&mut child, || Instant::now() >= end).ok()??.success();
        let mut text = String::new();
        child.stdout.take()?.read_to_string(&mut text).ok()?;
        good.then(|| text.trim().to_owned())
    }

    /// Downloads the wheel of one pinned package into `folder`, which exists and is empty. Every byte that pip writes,
    /// temporary ones included, goes below `folder`.
    ///
    /// Only wheels are accepted: a source package would run its own code.
    pub(crate) fn download(
        &self,
        package: &str,
        folder: &Path,
        stall: Duration,
        stop: &dyn Fn() -> bool,
    ) -> Result<PathBuf, PipError> {
        let failed = |error: std::io::Error| match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => PipError::NoSpace,
            _ => PipError::Failed(format!("{}: {error}", folder.display())),
        };
        let (temporary, wheels) = (folder.join("tmp"), folder.join("wheels"));
        std::fs::create_dir_all(&temporary).map_err(failed)?;
        std::fs::create_dir_all(&wheels).map_err(failed)?;
        let mut log = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(folder.join("log"))
            .map_err(failed)?;
        let mut command = self.command();
        command
            .args(["download", "--no-deps", "--only-binary", ":all:", "--ignore-requires-python"])
            .args(["--no-cache-dir", "--no-input", "--disable-pip-version-check"])
            .args(["--progress-bar", "off", "--timeout", "20", "--retries", "3"])
            .arg("--dest")
            .arg(&wheels)
            .arg(package)
            .stdin(Stdio::piped())
            .stdout(Stdio::from(log.try_clone().map_err(failed)?))
            .stderr(Stdio::from(log.try_clone().map_err(failed)?));
        for variable in ["TMPDIR", "TEMP", "TMP"] {
            command.env(variable, &temporary);
        }
        // Nothing is installed, so a rule against installing outside an environment does not apply.
        command.env("PIP_REQUIRE_VIRTUALENV", "0");
        let mut child = command.spawn().map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::PermissionDenied => PipError::Missing,
            _ => PipError::Failed(error.to_string()),
        })?;
        let mut seen = (0, Instant::now());
        let mut stalled = false;
        let status = wait(&mut child, || {
            let bytes = bytes_below(folder);
            if bytes != seen.0 {
                seen = (bytes, Instant::now());
            }
            stalled = seen.1.elapsed() > stall;
            stalled || stop()
        })
        .map_err(failed)?;
        match status {
            None if stalled => {
                Err(PipError::Failed(format!("pip brought nothing new for {} s", stall.as_secs())))
            }
            None => Err(PipError::Stopped),
            Some(status) if status.success() => the_wheel(&wheels),
            Some(status) => {
                let mut text = String::new();
                let _ = log.rewind().and_then(|()| log.read_to_string(&mut text));
                Err(explain(&text, status))
            }
        }
    }
}

/// Waits for a child; kills it, and returns `None`, when `stop` says so.
fn wait(child: &mut Child, mut stop: impl FnMut() -> bool) -> std::io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if stop() {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

fn the_wheel(folder: &Path) -> Result<PathBuf, PipError> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
        .ok_or_else(|| PipError::Failed("pip reported success but left no wheel".to_owned()))
}

/// The reason in pip's output: its error lines, else its last one.
fn explain(log: &str, status: ExitStatus) -> PipError {
    if log.contains("No module named pip") || log.contains("No module named 'pip'") {
        return PipError::Missing;
    }
    if log.contains("No space left on device") || log.contains("Disk quota exceeded") {
        return PipError::NoSpace;
    }
    let errors: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix("ERROR: ")).collect();
    let text = match errors.as_slice() {
        [] => log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().to_owned(),
        some => some.join("; "),
    };
    let text: String = text.chars().take(400).collect();
    PipError::Failed(format!("pip ended with {status}: {text}"))
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A stand-in for pip that runs a shell script.
    fn fake(folder: &Path, script: &str) -> Pip {
        let path = folder.join("fake-pip");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("chmod");
        Pip::Command(path)
    }

    fn run(script: &str, stall: Duration, stop: &dyn Fn() -> bool) -> Result<PathBuf, PipError> {
        let dir = tempfile::tempdir().expect("dir");
        let work = dir.path().join("work");
        std::fs::create_dir(&work).expect("dir");
        fake(dir.path(), script).download("x==1", &work, stall, stop)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn failures_are_told_in_pips_words() {
        let script =
            "echo noise; echo 'ERROR: No matching distribution found for x==1' >&2; exit 1";
        let Err(PipError::Failed(why)) = run(script, LONG, &|| false) else { panic!("must fail") };
        assert!(why.contains("No matching distribution found"), "{why}");
        let full = "echo 'ERROR: Could not install: [Errno 28] No space left on device'; exit 1";
        assert!(matches!(run(full, LONG, &|| false), Err(PipError::NoSpace)));
        let bare = "echo '/usr/bin/python3: No module named pip'; exit 1";
        assert!(matches!(run(bare, LONG, &|| false), Err(PipError::Missing)));
        let Err(PipError::Failed(why)) = run("exit 0", LONG, &|| false) else { panic!("no wheel") };
        assert!(why.contains("no wheel"), "{why}");
    }

    #[test]
    fn a_pip_that_hangs_or_is_not_wanted_is_ended() {
        let begun = Instant::now();
        let hang = "exec sleep 30";
        let Err(PipError::Failed(why)) = run(hang, Duration::from_millis(200), &|| false) else {
            panic!("must stall");
        };
        assert!(why.contains("nothing new"), "{why}");
        assert!(matches!(run(hang, LONG, &|| true), Err(PipError::Stopped)));
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_python_that_is_not_there_is_missing() {
        let dir = tempfile::tempdir().expect("dir");
        let pip = Pip::Module(dir.path().join("no-python"));
        assert_eq!(pip.version(), None);
        let result = pip.download("x==1", dir.path(), LONG, &|| false);
        assert!(matches!(result, Err(PipError::Missing)));
    }
}
