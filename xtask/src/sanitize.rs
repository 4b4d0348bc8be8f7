//! The code that has `unsafe`, with every access to memory checked: `cargo xtask sanitize` runs it under LLVM's
//! AddressSanitizer, vector code included, `cargo xtask miri` the portable code under Miri, which also knows of aliasing,
//! uninitialised memory and data races.

use crate::tools::{cargo, check, show, try_output};
use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};

/// The one target whose sanitizer runtime comes with the stable toolchain and that the vector code is for.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Looks whether freed memory has left the process; the sanitizer keeps it for a while, to find later uses.
const NOT_UNDER_IT: &str = "freed_blocks_leave_the_process";

/// Runs the tests of `hapa-kernels` with every access to memory checked, the vector code's too, which Miri can't run.
pub(crate) fn address(rest: &[&str]) -> Result<()> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu")) {
        bail!("AddressSanitizer is set up for {TARGET} only");
    }
    let arguments =
        ["test", "-p", "hapa-kernels", "--lib", "--tests", "--target", TARGET, "--target-dir"];
    let mut command = cargo(
        &[&arguments[..], &["target/sanitize"], rest, &["--", "--skip", NOT_UNDER_IT]].concat(),
    );
    // The flag is for nightly compilers; the runtime that it links is a part of every one.
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Zsanitizer=address");
    eprintln!("==> RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address {}", show(&command));
    check(command)
}

/// What Miri needs of rustup.
const MIRI: [&str; 4] = ["miri", "rust-src", "--toolchain", "nightly"];

/// Runs the tests of `hapa-kernels` under Miri, at sizes that it can do. Takes some minutes: it interprets.
pub(crate) fn miri(rest: &[&str]) -> Result<()> {
    // Not the cargo that runs this: Miri comes with nightly compilers only.
    let nightly = |words: &[&str]| {
        let mut command = Command::new("rustup");
        command.args(["run", "nightly", "cargo", "miri"]).args(words);
        command.current_dir(crate::root()).stdin(Stdio::null());
        for variable in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN"] {
            command.env_remove(variable);
        }
        command
    };
    if try_output("rustup", &["run", "nightly", "cargo", "miri", "--version"]).is_none() {
        let mut install = Command::new("rustup");
        install.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
        check(install).context("Miri needs a nightly compiler, which rustup installs")?;
        let mut add = Command::new("rustup");
        add.args(["component", "add"]).args(MIRI);
        check(add).context("this nightly compiler may have no Miri; one of another day has")?;
    }
    let mut tests = nightly(&["test", "-p", "hapa-kernels", "--lib", "--tests"]);
    tests.args(["--target-dir", "target/miri"]).args(rest);
    eprintln!("==> {}", show(&tests));
    check(tests)
}
