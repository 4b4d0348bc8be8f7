//! `hapa man`: manual pages.

use std::path::PathBuf;

use clap::{Args, CommandFactory};

use crate::commands::Cli;
use crate::console::print;
use crate::error::{CliError, Result};

/// Print the manual page, or write those of all commands into a folder
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa man | man -l -
  hapa man ~/.local/share/man/man1 && man hapa-generate")]
pub(crate) struct Man {
    /// Where hapa.1, hapa-generate.1 and so on go
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

impl Man {
    /// # Errors
    /// When the pages cannot be written.
    pub(crate) fn run(self) -> Result<()> {
        let command = Cli::command();
        if let Some(folder) = self.folder {
            let failed = |source| CliError::Io { action: "write", path: folder.clone(), source };
            std::fs::create_dir_all(&folder).map_err(failed)?;
            return clap_mangen::generate_to(command, &folder).map_err(failed);
        }
        let mut page = Vec::new();
        clap_mangen::Man::new(command)
            .render(&mut page)
            .map_err(|e| CliError::Failed(format!("could not write the page: {e}")))?;
        print(&String::from_utf8_lossy(&page))
    }
}
