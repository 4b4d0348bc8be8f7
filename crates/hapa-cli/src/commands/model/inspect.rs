//! `hapa model inspect`.

use std::path::Path;

use clap::Args;
use hapa_model::backend::reference::SafetensorsFolder;
use hapa_model::gguf::{GgufFile, Summary};
use hapa_model::tokenizer::SpecialToken;
use hapa_model::{ModelError, ModelRef, NoProgress, Store};
use serde_json::json;

use crate::console::{print, print_json};
use crate::error::{CliError, Result};
use crate::session::Session;
use crate::text::{bytes, table};

/// Show what a model file is: architecture, types of its tensors, context, template, special tokens
///
/// Reads the header only, and checks it; the model is not loaded or fetched.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa model inspect qwen2.5-coder-0.5b
  hapa model inspect ./model.gguf --json | jq .tensor_types
  hapa model inspect ./model.gguf --template")]
pub(crate) struct Inspect {
    /// A name of `hapa model list`, a hub repository that was pulled, or a path
    model: String,
    /// Print the chat template only
    #[arg(long, conflicts_with = "json")]
    template: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(super) fn run(self, session: &Session) -> Result<()> {
        let path = match self.model.parse()? {
            ModelRef::Path(path) => path,
            named => find(session, &named)?,
        };
        if path.is_dir() {
            return self.folder(&path);
        }
        let summary = Summary::new(&*GgufFile::open(&path)?)?;
        if self.json {
            print_json(&summary)
        } else if self.template {
            template(&path, summary.chat_template)
        } else {
            print(&describe(&summary))
        }
    }

    fn folder(&self, path: &Path) -> Result<()> {
        let folder = SafetensorsFolder::open(path)?;
        let config = folder.config();
        if self.template {
            return template(path, None);
        }
        let types = folder.types();
        if self.json {
            let types: Vec<_> = types
                .iter()
                .map(|(ty, tensors)| json!({ "type": ty, "tensors": tensors }))
                .collect();
            return print_json(&json!({
                "path": path,
                "file_bytes": folder.file_bytes(),
                "architecture": config.architecture,
                "parameters": folder.parameters(),
                "tensor_types": types,
                "context_length": config.context_length,
                "layers": config.layers,
            }));
        }
        let types: Vec<_> = types.iter().map(|(ty, n)| format!("{ty} x {n}")).collect();
        print(&table(&[
            row("folder", path.display().to_string()),
            row("size", bytes(folder.file_bytes())),
            row("architecture", config.architecture.clone()),
            row("parameters", parameters(folder.parameters())),
            row("tensors", types.join(", ")),
            row("context", format!("{} tokens", config.context_length)),
            row("layers", config.layers.to_string()),
        ]))
    }
}

/// A model that is on this machine already: looking at one should not fetch half a gigabyte.
fn find(session: &Session, model: &ModelRef) -> Result<std::path::PathBuf> {
    let mut options = session.store_options();
    options.offline = true;
    match Store::open(options)?.resolve(model, &NoProgress) {
        Ok(found) => Ok(found.path),
        Err(ModelError::Offline { name }) => Err(CliError::Failed(format!(
            "model `{name}` is not on this machine; `hapa model pull {name}` fetches it"
        ))),
        Err(error) => Err(error.into()),
    }
}

fn template(path: &Path, template: Option<String>) -> Result<()> {
    match template {
        Some(text) => print(&(text + "\n")),
        None => {
            Err(CliError::Failed(format!("{} has no chat template in its header", path.display())))
        }
    }
}

fn row(name: &str, value: impl Into<String>) -> Vec<String> {
    vec![name.to_owned(), value.into()]
}

fn parameters(number: u64) -> String {
    let millions = number as f64 / 1e6;
    if millions < 1.0 {
        number.to_string()
    } else if millions < 1000.0 {
        format!("{millions:.0} million")
    } else {
        format!("{:.2} billion", millions / 1e3)
    }
}

/// What a token is for, in words.
fn role(token: &SpecialToken) -> String {
    let name = serde_json::to_value(token.role).ok();
    let name = name.as_ref().and_then(|name| name.as_str()).unwrap_or_default().replace('_', " ");
    if token.ends_generation { format!("{name}, ends an answer") } else { name }
}

fn describe(summary: &Summary) -> String {
    let known = |value: Option<u64>| value.map_or("not said".to_owned(), |v| v.to_string());
    let mut rows = vec![
        row("file", summary.path.display().to_string()),
        row("size", bytes(summary.file_bytes)),
        row("format", format!("GGUF version {}", summary.gguf_version)),
    ];
    rows.extend(summary.name.as_ref().map(|name| row("name", name)));
    rows.extend(summary.license.as_ref().map(|license| row("licence", license)));
    rows.extend([
        row("architecture", &summary.architecture),
        row("parameters", parameters(summary.parameters)),
        row("context", format!("{} tokens", known(summary.context_length))),
        row("layers", known(summary.layers)),
        row("width", known(summary.embedding_length)),
        row("vocabulary", known(summary.vocab_size.map(|size| size as u64))),
        row("tokenizer", summary.tokenizer.as_deref().unwrap_or("none")),
        row(
            "chat template",
            match &summary.chat_template {
                Some(text) => format!("{} characters (--template prints it)", text.chars().count()),
                None => "none".to_owned(),
            },
        ),
    ]);
    let mut text = table(&rows);
    text.push_str("\ntensors\n");
    let types = summary.tensor_types.iter();
    let types: Vec<_> = types
        .map(|count| vec![format!("  {}", count.ty), count.tensors.to_string(), bytes(count.bytes)])
        .collect();
    text.push_str(&table(&types));
    if !summary.special_tokens.is_empty() {
        text.push_str("\nspecial tokens\n");
        let tokens = summary.special_tokens.iter();
        let tokens: Vec<_> = tokens
            .map(|token| {
                let text = token.text.escape_debug().to_string();
                vec![format!("  {}", token.id), text, role(token)]
            })
            .collect();
        text.push_str(&table(&tokens));
    }
    text
}
