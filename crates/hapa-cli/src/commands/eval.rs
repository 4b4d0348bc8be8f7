//! `hapa eval`: how good a model is.

mod asked;
mod completion;
mod humaneval;
mod results;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use hapa_model::Model;
use hapa_model::eval::perplexity;
use serde_json::json;

use crate::console::{print, print_json};
use crate::error::Result;
use crate::input;
use crate::session::{ModelArgs, Session};
use crate::settings::Flags;

/// Measure how good a model is
#[derive(Debug, Subcommand)]
pub(crate) enum Eval {
    Perplexity(Perplexity),
    #[command(name = "humaneval")]
    Problems(Box<humaneval::HumanEval>),
    Completion(Box<completion::Completion>),
}

/// Perplexity over a text: lower is better
///
/// The text is cut into chunks; the second half of each is scored, as llama.cpp's `llama-perplexity` does, so that
/// figures compare.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa eval perplexity --file corpus.txt
  hapa eval perplexity --file corpus.txt --model smollm2-135m --chunk 256 --json

--json prints {perplexity, tokens, chunks, chunk, model}.")]
pub(crate) struct Perplexity {
    /// The text; `-` is standard input
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// Tokens a chunk
    #[arg(long, value_name = "N", default_value_t = 512)]
    chunk: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

impl Eval {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        match self {
            Self::Perplexity(command) => command.model.flags(flags),
            Self::Problems(command) => command.flags(flags),
            Self::Completion(command) => command.flags(flags),
        }
    }

    /// # Errors
    /// For inputs that cannot be used, and a model or server that cannot be had.
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::Perplexity(command) => command.run(session),
            Self::Problems(command) => command.run(session),
            Self::Completion(command) => command.run(session),
        }
    }
}

impl Perplexity {
    fn run(self, session: &Session) -> Result<()> {
        let text = input::file(&self.file)?;
        let (store, name) = (session.store()?, session.model()?);
        let (options, chunk) = (session.load_options(), self.chunk);
        let (measured, model) = session.run_shown(move |progress| {
            let model = Model::load(&store.resolve(&name, progress)?, &options, progress)?;
            Ok((perplexity(&model, &text, chunk)?, model.info().name.clone()))
        })?;
        if self.json {
            return print_json(&json!({
                "perplexity": measured.perplexity,
                "tokens": measured.tokens,
                "chunks": measured.chunks,
                "chunk": chunk,
                "model": model,
            }));
        }
        print(&format!(
            "perplexity {:.4} over {} tokens in {} chunks of {chunk}\n",
            measured.perplexity, measured.tokens, measured.chunks
        ))
    }
}
