//! The subcommands, a file each.

mod batch;
mod bench;
mod cache;
mod chat;
mod complete;
mod completions;
mod doctor;
mod edit;
mod eval;
mod generate;
mod keys;
mod man;
mod model;
#[cfg(unix)]
mod profile;
mod serve;
mod top;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::console::Console;
use crate::error::Result;
use crate::session::Session;
use crate::settings::{Flags, Given, Layers, Settings, gather};

/// A local Python coding assistant: questions and cursors in, Python out, from a model inside this process.
#[derive(Debug, Parser)]
#[command(
    name = "hapa",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Examples:
  hapa generate \"write a function that merges two sorted lists\"
  hapa complete --file app.py --line 12
  hapa edit app.py \"add type hints\"
  hapa chat
  hapa serve --port 8000
  hapa doctor

The first use fetches the model (491 MB), once. Settings: hapa.toml, HAPA_* variables, flags;
`hapa serve --print-config` shows them. Exit codes: 0 done, 1 failed, 2 bad usage, 130 Ctrl-C."
)]
pub(crate) struct Cli {
    /// Read settings from this file
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, or a filter such as hapa_model=debug
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    /// Only results, warnings and errors: no progress, no receipt
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Generate(generate::Generate),
    Complete(complete::Complete),
    Chat(chat::Chat),
    Edit(edit::Edit),
    Batch(batch::Batch),
    Serve(serve::Serve),
    #[command(subcommand)]
    Model(model::ModelCommand),
    #[command(subcommand)]
    Cache(cache::CacheCommand),
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    Doctor(doctor::Doctor),
    #[command(subcommand)]
    Bench(bench::Bench),
    #[command(subcommand)]
    Eval(eval::Eval),
    #[cfg(unix)]
    #[command(subcommand)]
    Profile(profile::Profile),
    Top(top::Top),
    Completions(completions::Completions),
    Man(man::Man),
}

#[cfg(unix)]
impl Cli {
    /// Whether the command profiles another one.
    fn is_profile(&self) -> bool {
        matches!(self.command, Command::Profile(_))
    }
}

impl Command {
    /// The settings that the command's flags give.
    fn flags(&self, flags: &mut Flags) {
        match self {
            Self::Generate(command) => command.flags(flags),
            Self::Complete(command) => command.flags(flags),
            Self::Chat(command) => command.flags(flags),
            Self::Edit(command) => command.flags(flags),
            Self::Batch(command) => command.flags(flags),
            Self::Serve(command) => command.flags(flags),
            Self::Model(command) => command.flags(flags),
            Self::Doctor(command) => command.flags(flags),
            Self::Bench(command) => command.flags(flags),
            Self::Eval(command) => command.flags(flags),
            Self::Cache(_) | Self::Keys(_) | Self::Completions(_) | Self::Man(_) | Self::Top(_) => {
            }
            #[cfg(unix)]
            Self::Profile(_) => {}
        }
    }
}

/// Runs a command line.
///
/// # Errors
/// Whatever the command fails with.
pub(crate) fn run(cli: Cli, console: &Console) -> Result<()> {
    let Cli { config, log, command, .. } = cli;
    // These need no settings, and work where those are broken.
    let command = match command {
        Command::Completions(command) => return command.run(),
        Command::Man(command) => return command.run(),
        Command::Top(command) => return command.run(),
        // The command that is profiled has settings of its own.
        #[cfg(unix)]
        Command::Profile(command) => return command.run(console),
        command => command,
    };
    let mut flags = Flags::default();
    flags.set("log", log, "--log");
    command.flags(&mut flags);
    let given = Given { config, variables: std::env::vars_os().collect(), flags };
    let (layers, warnings) = gather(given.clone())?;
    for warning in warnings {
        console.warn(&warning);
    }
    if let Command::Serve(command) = &command
        && command.print_config
    {
        return print_config(&layers);
    }
    let session = Session { settings: layers.settings()?, console: console.clone(), layers, given };
    let Settings { log, profile_spans, .. } = &session.settings;
    console.observe(log, profile_spans, matches!(command, Command::Serve(_)))?;
    match command {
        Command::Generate(command) => command.run(&session),
        Command::Complete(command) => command.run(&session),
        Command::Chat(command) => command.run(&session),
        Command::Edit(command) => command.run(&session),
        Command::Batch(command) => command.run(&session),
        Command::Serve(command) => command.run(&session),
        Command::Model(command) => command.run(&session),
        Command::Cache(command) => command.run(&session),
        Command::Keys(command) => command.run(&session),
        Command::Doctor(command) => command.run(&session),
        Command::Bench(command) => command.run(&session),
        Command::Eval(command) => command.run(&session),
        Command::Completions(command) => command.run(),
        Command::Man(command) => command.run(),
        Command::Top(command) => command.run(),
        #[cfg(unix)]
        Command::Profile(command) => command.run(console),
    }
}

fn print_config(layers: &Layers) -> Result<()> {
    crate::console::print(&layers.to_string())
}
