//! `hapa completions`: completion scripts for shells.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::commands::Cli;
use crate::console::print;
use crate::error::{CliError, Result};

/// Print a shell's completion script
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa completions bash > ~/.local/share/bash-completion/completions/hapa
  hapa completions zsh > \"${fpath[1]}/_hapa\"
  hapa completions fish > ~/.config/fish/completions/hapa.fish")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    /// # Errors
    /// When the script cannot be written.
    pub(crate) fn run(self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "hapa", &mut script);
        let script = String::from_utf8(script)
            .map_err(|_| CliError::Failed("the script is not UTF-8".to_owned()))?;
        print(&script)
    }
}
