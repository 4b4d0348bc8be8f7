//! `hapa bench`: how fast it is here.

mod compare;
mod engine;
mod measure;
mod review;
mod serve;
mod typing;

use clap::Subcommand;

pub(crate) use serve::{Shown, problems};

use crate::error::Result;
use crate::session::Session;
use crate::settings::Flags;

/// Measure how fast it is on this machine
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    Engine(engine::EngineBench),
    Serve(Box<serve::ServeBench>),
    Review(review::ReviewBench),
    Typing(typing::TypingBench),
    Compare(compare::Compare),
}

impl Bench {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        match self {
            Self::Engine(command) => command.flags(flags),
            Self::Review(command) => command.flags(flags),
            Self::Typing(command) => command.flags(flags),
            Self::Serve(_) | Self::Compare(_) => {}
        }
    }

    /// # Errors
    /// For a model or server that cannot be had or measured.
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::Engine(command) => command.run(session),
            Self::Serve(command) => command.run(session),
            Self::Review(command) => command.run(session),
            Self::Typing(command) => command.run(session),
            Self::Compare(command) => command.run(),
        }
    }
}
