//! The `hapa` command.
//!
//! - [`commands`]: one file a subcommand;
//! - [`settings`]: defaults, a file, variables and flags, merged;
//! - [`session`]: what commands make out of the settings: store, model, service;
//! - [`input`], [`sampling`], [`answering`]: what users hand over, and the answer to it;
//! - [`console`], [`terminal`], [`progress`], [`tally`], [`receipt`], [`text`]: what people see;
//! - [`interrupt`], [`error`]: how a command ends.
//!
//! Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 bad usage, 130
//! Ctrl-C, 143 asked to terminate.

mod answering;
mod commands;
mod console;
mod error;
mod input;
mod interrupt;
mod progress;
mod receipt;
mod sampling;
mod session;
mod settings;
mod tally;
mod terminal;
mod text;

use std::process::ExitCode;

use clap::Parser;
use hapa_profiler::ProfiledAlloc;

use crate::commands::Cli;
use crate::console::Console;

/// Counts what each scope allocates, and tells a heap profile where; see docs/profiling.md for what it costs.
#[global_allocator]
static ALLOCATOR: ProfiledAlloc = ProfiledAlloc::system();

fn main() -> ExitCode {
    // Help, versions and mistakes in the command line end here, with 0 or 2.
    let cli = Cli::parse();
    let console = Console::new(cli.quiet);
    match commands::run(cli, &console) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_silent() {
                console.error(&error.report());
            }
            ExitCode::from(&error)
        }
    }
}
