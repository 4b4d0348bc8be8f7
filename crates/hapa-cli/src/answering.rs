//! What commands that ask for an answer share: how it is written, by which model, and the reading of it.

use clap::Args;
use hapa_service::{Answer, AnswerEvent, Request, Service};

use crate::console::Console;
use crate::error::{CliError, Result};
use crate::progress::Progress;
use crate::sampling::SamplingArgs;
use crate::session::ModelArgs;
use crate::settings::{Flags, Settings};

/// How an answer is written, and by which model.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct AnswerArgs {
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    model: ModelArgs,
}

impl AnswerArgs {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        self.sampling.flags(flags);
        self.model.flags(flags);
    }

    /// Writes settings and flags into a request.
    pub(crate) fn apply(&self, settings: &Settings, request: &mut Request) {
        self.sampling.apply(settings, request);
    }

    /// `--max-tokens`, where it was given.
    pub(crate) fn max_tokens(&self) -> Option<u32> {
        self.sampling.max_tokens
    }
}

/// Gets one answer; `each` has every piece of it as it comes.
///
/// # Errors
/// Those of the service and of `each`.
pub(crate) async fn answer(
    console: &Console,
    service: &Service,
    request: Request,
    mut each: impl FnMut(&str) -> Result<()>,
) -> Result<Answer> {
    let progress = Progress::of_service(console, service);
    let mut stream = service.predict_stream(request).await?;
    drop(progress);
    while let Some(event) = stream.next().await {
        match event? {
            AnswerEvent::Text(text) => each(&text)?,
            AnswerEvent::Logprobs(_) => {}
            AnswerEvent::Finished(answer) => return Ok(*answer),
        }
    }
    Err(CliError::Failed("the answer had no end".to_owned()))
}
