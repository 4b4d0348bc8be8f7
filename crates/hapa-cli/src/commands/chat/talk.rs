//! The conversation so far, and the next answer.

use std::path::Path;

use hapa_server::wire::hapa::{CacheBody, TimingsBody, UsageBody, finish_reason};
use hapa_service::{Answer, ChatMessage, Request, Role, Service};
use serde_json::json;

use super::command::Command;
use crate::answering::{AnswerArgs, answer};
use crate::console::print;
use crate::error::{CliError, Result};
use crate::session::Session;
use crate::{input, receipt};

/// A conversation with a model.
pub(super) struct Talk<'a> {
    session: &'a Session,
    service: Service,
    arguments: AnswerArgs,
    system: Option<String>,
    /// Questions and answers in turn.
    turns: Vec<ChatMessage>,
    /// Files for the next question.
    attached: Vec<String>,
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    /// How often the last question was asked anew.
    retries: u64,
    last_code: Option<String>,
    pub(super) json: bool,
}

impl<'a> Talk<'a> {
    pub(super) fn new(
        session: &'a Session,
        service: Service,
        arguments: AnswerArgs,
        system: Option<String>,
    ) -> Self {
        Self {
            session,
            service,
            arguments,
            system,
            turns: Vec::new(),
            attached: Vec::new(),
            max_tokens: None,
            temperature: None,
            retries: 0,
            last_code: None,
            json: false,
        }
    }

    /// The next question, with what was attached.
    pub(super) fn ask(&mut self, question: String) {
        let mut parts = std::mem::take(&mut self.attached);
        parts.push(question);
        self.turns.push(ChatMessage::new(Role::User, parts.join("\n\n")));
        self.retries = 0;
    }

    /// Takes the question back that has no answer.
    pub(super) fn take_back(&mut self) {
        if self.turns.last().is_some_and(|turn| turn.role == Role::User) {
            self.turns.pop();
        }
    }

    /// Does what a command says; whether there is something to answer then.
    pub(super) fn obey(&mut self, command: Command) -> Result<bool, String> {
        let note = |text: &str| self.session.console.note(text);
        match command {
            Command::Help | Command::Exit => {}
            Command::Clear => {
                self.turns.clear();
                self.attached.clear();
                note("a new conversation");
            }
            Command::Undo => {
                if self.turns.is_empty() {
                    return Err("there is nothing to take back".to_owned());
                }
                self.turns.truncate(self.turns.len() - 2);
                note("the last question is taken back");
            }
            Command::Retry => {
                if self.turns.pop().is_none() {
                    return Err("there is no question to answer anew".to_owned());
                }
                self.retries += 1;
                return Ok(true);
            }
            Command::Code => print(&format!("{}\n", self.code()?)).map_err(|e| e.to_string())?,
            Command::Save(path) => {
                let code = self.code()?.to_owned() + "\n";
                let failed = |e| format!("could not write {}: {e}", path.display());
                std::fs::write(&path, code).map_err(failed)?;
                note(&format!("written to {}", path.display()));
            }
            Command::File(path) => {
                self.attached.push(attachment(&path).map_err(|error| error.report())?);
                note(&format!("{} goes with the next question", path.display()));
            }
            Command::System(text) => self.system = text,
            Command::Max(tokens) => self.max_tokens = Some(tokens),
            Command::Temperature(temperature) => self.temperature = Some(temperature),
        }
        Ok(false)
    }

    fn code(&self) -> Result<&str, String> {
        self.last_code.as_deref().ok_or_else(|| "there is no code yet".to_owned())
    }

    fn request(&self) -> Request {
        let system = self.system.iter().map(|text| ChatMessage::new(Role::System, text));
        let mut request = Request::chat(system.chain(self.turns.iter().cloned()).collect());
        self.arguments.apply(&self.session.settings, &mut request);
        request.max_tokens = self.max_tokens.unwrap_or(request.max_tokens);
        let sampling = &mut request.sampling;
        sampling.temperature = self.temperature.unwrap_or(sampling.temperature);
        if self.retries > 0 {
            sampling.temperature = sampling.temperature.max(0.7);
            sampling.seed = Some(sampling.seed.unwrap_or(0).wrapping_add(self.retries));
        }
        request
    }

    /// Answers the last question, which is written as it comes. Where the conversation has become too long for the model,
    /// its beginning is forgotten.
    pub(super) async fn answer(&mut self) -> Result<()> {
        let console = &self.session.console;
        let json = self.json;
        let answered = loop {
            let each = |text: &str| if json { Ok(()) } else { print(text) };
            match answer(console, &self.service, self.request(), each).await {
                Err(CliError::Model(error))
                    if error.is_prompt_too_long() && self.turns.len() > 1 =>
                {
                    self.turns.drain(..2);
                    console.note(
                        "the conversation is too long for the model; its beginning is left out",
                    );
                }
                answered => break answered?,
            }
        };
        if json {
            print(&(line(&answered) + "\n"))?;
        } else {
            print("\n")?;
        }
        receipt::show(console, &answered);
        self.last_code = answered.code.clone().or(self.last_code.take());
        self.turns.push(ChatMessage::new(Role::Assistant, answered.text));
        Ok(())
    }
}

/// A file as a message has it.
fn attachment(path: &Path) -> Result<String> {
    if path.as_os_str() == "-" {
        return Err(CliError::usage("a file is needed"));
    }
    let text = input::file(path)?;
    Ok(format!("`{}`:\n```\n{}\n```", path.display(), text.trim_end()))
}

/// An answer as one line of JSON.
fn line(answer: &Answer) -> String {
    json!({
        "text": answer.text,
        "code": answer.code,
        "finish_reason": finish_reason(answer.finish),
        "usage": UsageBody::from(&answer.usage),
        "cache": CacheBody::from(&answer.cache),
        "timings": TimingsBody::from(&answer.timings),
    })
    .to_string()
}
