//! `hapa generate`: a question in, code out.

use std::path::PathBuf;

use clap::Args;
use hapa_server::wire::hapa::GenerateResponse;
use hapa_service::{Answer, AnswerEvent, CodeStream, Request, Task};

use crate::console::{print, print_json};
use crate::error::{CliError, Result};
use crate::progress::Progress;
use crate::sampling::SamplingArgs;
use crate::session::{ModelArgs, Session};
use crate::settings::Flags;
use crate::{input, receipt};

/// Answer a question with code
///
/// The code goes to standard output as it is written; the explanation and a line about time and speed go to standard
/// error.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa generate \"write a function that merges two sorted lists\"
  hapa generate \"add type hints\" --context app.py > typed.py
  git diff | hapa generate \"write a test for this change\" --context -
  hapa generate - < question.txt
  hapa generate \"parse an ISO date\" --json | jq -r .generated_code
  hapa generate \"name a cat\" --temperature 0.8 --seed 7

--json prints {generated_code, explanation, finish_reason, syntax, model, usage, cache, timings}.
Exit code 1 also when the answer has no code.")]
pub(crate) struct Generate {
    /// The question, in quotes; `-` reads it from standard input
    prompt: String,
    /// Code that the question is about; `-` is standard input
    #[arg(long, short, value_name = "FILE")]
    context: Option<PathBuf>,
    /// Language of the wanted code
    #[arg(long, value_name = "NAME", default_value = "python")]
    language: String,
    /// Where the code belongs, for the model to know; `--context` names it by itself
    #[arg(long, value_name = "PATH")]
    file_path: Option<String>,
    /// Print one JSON object at the end instead of code as it comes
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    model: ModelArgs,
}

impl Generate {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        self.sampling.flags(flags);
        self.model.flags(flags);
    }

    /// # Errors
    /// For input that cannot be used and a model that cannot be had.
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let service = session.service()?;
        let request = self.request(session)?;
        service.limits().check(&request)?;
        let json = self.json;
        let answered = async {
            let progress = Progress::of_model(&session.console, service.model());
            let mut stream = service.predict_stream(request).await?;
            drop(progress);
            let mut code = CodeStream::new();
            while let Some(event) = stream.next().await {
                match event? {
                    AnswerEvent::Text(_) if json => {}
                    AnswerEvent::Logprobs(_) => {}
                    AnswerEvent::Text(text) => print(&code.push(&text))?,
                    AnswerEvent::Finished(answer) if json => {
                        print_json(&GenerateResponse::from(&*answer))?;
                        receipt::show(&session.console, &answer);
                        return Ok(());
                    }
                    AnswerEvent::Finished(answer) => {
                        print(&code.finish())?;
                        return finish(session, &answer);
                    }
                }
            }
            Err(CliError::Failed("the answer had no end".to_owned()))
        };
        session.run_and_keep(&service, answered)
    }

    fn request(&self, session: &Session) -> Result<Request> {
        let from_stdin = self.prompt == "-";
        let context_from_stdin = self.context.as_ref().is_some_and(|path| path.as_os_str() == "-");
        if from_stdin && context_from_stdin {
            return Err(CliError::usage(
                "prompt and --context cannot both come from standard input; put one into a file",
            ));
        }
        let question = if from_stdin { input::stdin()? } else { self.prompt.clone() };
        let code = self.context.as_deref().map(input::file).transpose()?;
        let named = self.context.as_ref().filter(|_| !context_from_stdin);
        let named = named.map(|path| path.display().to_string());
        let mut request = Request::generate(question);
        if let Task::Generate { context, language, file_path, .. } = &mut request.task {
            *context = code;
            *language = self.language.to_lowercase();
            *file_path = self.file_path.clone().or(named);
        }
        self.sampling.apply(&session.settings, &mut request);
        Ok(request)
    }
}

/// Ends the code's last line, and tells the rest.
fn finish(session: &Session, answer: &Answer) -> Result<()> {
    if answer.code.is_some() {
        print("\n")?;
    }
    if let Some(explanation) = &answer.explanation {
        session.console.note(&format!("\n{}\n", explanation.trim()));
    }
    receipt::show(&session.console, answer);
    if answer.code.is_none() {
        return Err(CliError::Failed(
            "the answer has no code; ask for code, or see the whole answer with --json".to_owned(),
        ));
    }
    Ok(())
}
