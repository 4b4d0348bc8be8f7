//! The test of the web page: a real browser on a real server, driven from Python.

use crate::tools::{
    cargo, check, check_python, install_python_packages, install_test_programs, root_of_targets,
};
use anyhow::Result;
use std::process::{Command, Stdio};

/// Its own folder, below the repository's root.
const TESTS: &str = "crates/hapa-server/tests/browser";

/// Installs what is missing and runs the test; `arguments` go to it, such as parts of names.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    check_python();
    install_test_programs();
    test(arguments)
}

/// As [`run`], where programs are installed already.
pub(crate) fn test(arguments: &[&str]) -> Result<()> {
    let target = root_of_targets()?;
    let packages = target.join("test-tools/browser");
    install_python_packages(&format!("{TESTS}/requirements.txt"), &packages)?;
    // Together, since an example's features are those of the tests: nothing is built twice.
    check(cargo(&["build", "--workspace", "--bins", "--example", "tiny_model"]))?;
    // The store that the other tests use, so that the model is fetched once.
    let home = std::env::var_os("HAPA_HOME").map_or_else(|| target.join("hapa-home"), Into::into);
    let mut command = Command::new("python3");
    command
        .arg(crate::root().join(TESTS).join("page.py"))
        .arg("--hapa")
        .arg(target.join("debug/hapa"))
        .arg("--tiny-model")
        .arg(target.join("debug/examples/tiny_model"))
        .arg("--home")
        .arg(home)
        .args(arguments)
        .env("PYTHONPATH", &packages)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null());
    check(command)
}
