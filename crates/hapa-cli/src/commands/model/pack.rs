//! `hapa model pack`.

use clap::Args;
use hapa_model::backend::cpu::packed_path;
use hapa_model::{BackendChoice, Model};
use serde_json::json;

use crate::console::{print, print_json};
use crate::error::{CliError, Result};
use crate::session::Session;
use crate::settings::Flags;
use crate::text::{bytes, duration};

/// Bring a model's weights into the layout that the kernels read, ahead of the first start
///
/// The first load does it otherwise. The packed file lies beside the model, serves all instruction sets, and is mapped by
/// every later start.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa model pack qwen2.5-coder-0.5b
  hapa model pack ./model.gguf --json")]
pub(crate) struct Pack {
    /// A name of `hapa model list`, a hub repository, or a path
    #[arg(value_name = "MODEL")]
    model: String,
    /// Fetch nothing
    #[arg(long)]
    offline: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Pack {
    pub(super) fn flags(&self, flags: &mut Flags) {
        flags.set("model", Some(self.model.as_str()), "MODEL").set(
            "offline",
            self.offline.then_some(true),
            "--offline",
        );
    }

    pub(super) fn run(self, session: &Session) -> Result<()> {
        let (store, name) = (session.store()?, session.model()?);
        let mut options = session.load_options();
        options.backend = BackendChoice::Cpu;
        // Only the weights are wanted: no room for sequences.
        options.kv_budget_bytes = Some(1 << 20);
        let (path, took) = session.run_shown(move |progress| {
            let resolved = store.resolve(&name, progress)?;
            let began = std::time::Instant::now();
            drop(Model::load(&resolved, &options, progress)?);
            Ok((packed_path(&resolved.path), began.elapsed()))
        })?;
        let kept = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file);
        let size = kept.map(|metadata| metadata.len()).ok_or_else(|| {
            CliError::Failed(format!(
                "the packed weights could not be kept as {}; is the folder writable, and is there room?",
                path.display()
            ))
        })?;
        if self.json {
            return print_json(&json!({
                "path": path,
                "bytes": size,
                "seconds": took.as_secs_f64(),
            }));
        }
        session.console.note(&format!("{} in {}", bytes(size), duration(took)));
        print(&format!("{}\n", path.display()))
    }
}
