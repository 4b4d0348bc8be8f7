//! `hapa bench`: how fast it is here.

mod engine;
mod measure;

use clap::Subcommand;

use crate::error::Result;
use crate::session::Session;
use crate::settings::Flags;

/// Measure how fast it is on this machine
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    Engine(engine::EngineBench),
}

impl Bench {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        let Self::Engine(command) = self;
        command.flags(flags);
    }

    /// # Errors
    /// For a model that cannot be had or measured.
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let Self::Engine(command) = self;
        command.run(session)
    }
}
