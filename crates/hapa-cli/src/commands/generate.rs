//! `hapa generate`: a question in, code out.

use std::path::{Path, PathBuf};

use clap::Args;
use hapa_server::wire::hapa::GenerateResponse;
use hapa_service::{Answer, CodeStream, Request, Service, Task};

use crate::answering::{AnswerArgs, answer};
use crate::console::{print, print_json};
use crate::error::{CliError, Result};
use crate::session::Session;
use crate::settings::Flags;
use crate::{input, receipt};

/// The id of the request that is traced.
const TRACED: &str = "hapa-generate";

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
  hapa generate \"parse an ISO date\" --no-cache --trace trace.json --trace-kernels

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
    /// Write where the time went, as a timeline that opens in <https://ui.perfetto.dev>
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Put each kernel of each layer on the timeline too, for the first few hundred steps
    #[arg(long, requires = "trace")]
    trace_kernels: bool,
    #[command(flatten)]
    answer: AnswerArgs,
}

impl Generate {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        self.answer.flags(flags);
    }

    /// # Errors
    /// For input that cannot be used and a model that cannot be had.
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let service = session.service()?;
        let request = self.request(session)?;
        service.limits().check(&request)?;
        let json = self.json;
        let answered = async {
            let mut code = CodeStream::new();
            let each = |text: &str| if json { Ok(()) } else { print(&code.push(text)) };
            let answer = answer(&session.console, &service, request, each).await?;
            if let Some(path) = &self.trace {
                write_trace(&service, path)?;
            }
            if json {
                print_json(&GenerateResponse::from(&answer))?;
                receipt::show(&session.console, &answer);
                return Ok(());
            }
            print(&code.finish())?;
            finish(session, &answer)
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
        self.answer.apply(&session.settings, &mut request);
        request.request_id = self.trace.is_some().then(|| TRACED.to_owned());
        request.trace_kernels = self.trace_kernels;
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

/// Writes the timeline of the request that was answered.
fn write_trace(service: &Service, path: &Path) -> Result<()> {
    let trace = service.traces().get(TRACED);
    let json = trace.map(|trace| trace.to_chrome_json()).unwrap_or_default();
    let failed = |source| CliError::Io { action: "write", path: path.to_owned(), source };
    std::fs::write(path, json).map_err(failed)
}
