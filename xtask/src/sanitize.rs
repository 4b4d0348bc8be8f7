//! `cargo xtask sanitize`: the code that has `unsafe`, under LLVM's AddressSanitizer.

use crate::tools::{cargo, check, show};
use anyhow::{Result, bail};

/// The one target whose sanitizer runtime comes with the stable toolchain and that the vector code is for.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Looks whether freed memory has left the process; the sanitizer keeps it for a while, to find later uses.
const NOT_UNDER_IT: &str = "freed_blocks_leave_the_process";

/// Runs the tests of `hapa-kernels` with every access to memory checked, the vector code's too, which Miri can't run.
pub(crate) fn run(rest: &[&str]) -> Result<()> {
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
