//! `cargo xtask soak`: the engine under clients that come and go, for as long as wanted.

use crate::tools::{cargo, check, show};
use anyhow::{Context, Result};

/// Runs the soak test in release for so many seconds.
pub(crate) fn run(seconds: &str) -> Result<()> {
    let time: u64 = seconds.parse().context("the time is a number of seconds")?;
    let arguments =
        ["test", "--release", "-p", "hapa-model", "--test", "soak", "--", "--nocapture"];
    let mut command = cargo(&arguments);
    command.env("HAPA_SOAK_SECONDS", time.to_string());
    eprintln!("==> HAPA_SOAK_SECONDS={time} {}", show(&command));
    check(command)
}
