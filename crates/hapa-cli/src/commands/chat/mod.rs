//! `hapa chat`: a conversation, on a terminal or through a pipe.

mod command;
mod reader;
mod talk;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use self::command::{Command, HELP};
use self::reader::{Reader, Said};
use self::talk::Talk;
use crate::answering::AnswerArgs;
use crate::console::{print, stdout_is_terminal};
use crate::error::{CliError, Result};
use crate::interrupt::{Signal, Signals};
use crate::session::{KEEPING, Session};
use crate::settings::Flags;

/// Talk with the model
///
/// On a terminal lines are edited and remembered; `\` at the end of a line or `\"\"\"` around lines makes a message of
/// several. Through a pipe each line (or such a block) is a message and the answers go to standard output. Ctrl-C stops
/// an answer, Ctrl-D ends.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa chat
  hapa chat --system \"Answer in one sentence.\"
  printf 'sort a list\\nnow in reverse\\n' | hapa chat --json | jq -r .text

/help lists what can be typed: /file PATH attaches a file, /code prints the last code, /save FILE keeps it,
/undo takes the last question back, /clear begins anew. --json prints one object an answer, a line each.")]
pub(crate) struct Chat {
    /// What the model is told before everything else
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Remember nothing of what was typed for the next time
    #[arg(long)]
    no_history: bool,
    /// Print one JSON object for each answer
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    answer: AnswerArgs,
}

impl Chat {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        self.answer.flags(flags);
    }

    /// # Errors
    /// For a model that cannot be had; through a pipe, also for the first message that cannot be answered.
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let service = session.service()?;
        let history = match self.no_history {
            true => None,
            false => session.store().ok().map(|store| store.home().join("chat-history.txt")),
        };
        let mut reader = Reader::new(history)?;
        let mut talk = Talk::new(session, service.clone(), self.answer, self.system);
        talk.json = self.json;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| CliError::Failed(format!("could not start the async runtime: {e}")))?;
        let stop = Stop::listen(&runtime)?;
        if reader.is_interactive() {
            let model = &session.settings.model;
            session.console.note(&format!("{model} · /help for commands, Ctrl-D ends"));
        }
        let ended = converse(session, &mut reader, &mut talk, (&runtime, &stop));
        reader.save();
        let _ =
            runtime.block_on(async { tokio::time::timeout(KEEPING, service.flush_cache()).await });
        runtime.shutdown_background();
        ended
    }
}

/// Reads and answers to the end.
fn converse(
    session: &Session,
    reader: &mut Reader,
    talk: &mut Talk<'_>,
    (runtime, stop): (&Runtime, &Stop),
) -> Result<()> {
    loop {
        let text = match reader.next()? {
            Said::Message(text) => text,
            Said::Nothing => continue,
            Said::End => return Ok(()),
        };
        let asked = match Command::read(&text) {
            None => {
                talk.ask(text);
                true
            }
            Some(Ok(Command::Exit)) => return Ok(()),
            Some(Ok(Command::Help)) => {
                session.console.note(HELP);
                false
            }
            Some(command) => match command.and_then(|command| talk.obey(command)) {
                Ok(asked) => asked,
                // A script should not go on as if nothing was wrong.
                Err(problem) if !reader.is_interactive() => return Err(CliError::Usage(problem)),
                Err(problem) => {
                    session.console.warn(&problem);
                    false
                }
            },
        };
        if !asked {
            continue;
        }
        stop.answering.store(true, Ordering::SeqCst);
        let answered = runtime.block_on(async {
            tokio::select! {
                answered = talk.answer() => answered.map(Some),
                () = stop.interrupted.notified() => Ok(None),
            }
        });
        stop.answering.store(false, Ordering::SeqCst);
        match answered {
            Ok(Some(())) => {}
            Ok(None) => {
                talk.take_back();
                if stdout_is_terminal() {
                    print("\n")?;
                }
                session.console.note("stopped; the question is taken back");
            }
            Err(error) if !reader.is_interactive() || matches!(error, CliError::ReaderGone) => {
                return Err(error);
            }
            Err(error) => {
                talk.take_back();
                session.console.error(&error.report());
            }
        }
    }
}

/// Ctrl-C stops an answer; when there is none, it and a request to terminate end the program.
struct Stop {
    answering: Arc<AtomicBool>,
    interrupted: Arc<Notify>,
}

impl Stop {
    fn listen(runtime: &Runtime) -> Result<Self> {
        let stop = Self { answering: Arc::default(), interrupted: Arc::default() };
        let (answering, interrupted) = (stop.answering.clone(), stop.interrupted.clone());
        let _within = runtime.enter();
        let mut signals = Signals::listen()?;
        runtime.spawn(async move {
            loop {
                let signal = signals.next().await;
                if signal == Signal::Interrupt && answering.load(Ordering::SeqCst) {
                    interrupted.notify_waiters();
                } else {
                    std::process::exit(signal.exit_code().into());
                }
            }
        });
        Ok(stop)
    }
}

/// A path that a user typed: `~/x` is below the home folder.
fn typed_path(text: &str) -> PathBuf {
    crate::session::expand_home(text.trim())
}
