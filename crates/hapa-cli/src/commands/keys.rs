//! `hapa keys`: who may ask the server.

use std::num::NonZeroU32;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use hapa_server::{KeyFile, KeyRecord, NewKey, Rate, Scope};
use serde_json::{Value, json};

use crate::console::{print, print_json};
use crate::error::{CliError, Result};
use crate::session::Session;
use crate::settings::Period;
use crate::text::{duration, table};

/// Make, list and revoke the API keys of `hapa serve`
///
/// The setting server.key_file says where they are kept, as salted hashes. A running server follows the file.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    Create(Create),
    List(List),
    Revoke(Revoke),
}

/// Make a key and print it, this once
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa keys create --name laptop --scope code_generation --scope code_completion
  hapa keys create --name ci --scope code_generation --rate 60 --token-rate 100000 --expires 90d
  hapa keys create --name monitoring --scope admin

Only the key goes to standard output: export HAPA_KEY=$(hapa keys create ...)")]
pub(crate) struct Create {
    /// Whom or what it is for
    #[arg(long, value_name = "NAME")]
    name: String,
    /// What it may ask for: code_generation, code_completion, admin; may be given several times
    #[arg(long = "scope", value_name = "SCOPE", required = true, value_delimiter = ',')]
    scopes: Vec<Scope>,
    /// Most requests a minute
    #[arg(long, value_name = "REQUESTS")]
    rate: Option<NonZeroU32>,
    /// Most tokens a minute, of prompts and answers
    #[arg(long, value_name = "TOKENS")]
    token_rate: Option<NonZeroU32>,
    /// When it ends, from now: 12h, 90d, never
    #[arg(long, value_name = "TIME", default_value = "never")]
    expires: Period,
    /// Share cached answers with the other keys of this tenant; by default with none
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Show all keys, without the keys themselves
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Revoke a key; running servers refuse it within two seconds
#[derive(Debug, Args)]
pub(crate) struct Revoke {
    /// Its id or name, as `hapa keys list` shows them
    #[arg(value_name = "KEY")]
    key: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl KeysCommand {
    /// # Errors
    /// When keys are turned off or their file can't be used.
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let Some(file) = session.key_file()? else {
            return Err(CliError::usage("there are no keys: the setting server.key_file is none"));
        };
        match self {
            Self::Create(command) => command.run(session, &file),
            Self::List(command) => command.run(&file),
            Self::Revoke(command) => command.run(session, &file),
        }
    }
}

impl Create {
    fn run(self, session: &Session, file: &KeyFile) -> Result<()> {
        let (key, record) = file.create(NewKey {
            name: self.name,
            scopes: self.scopes,
            tenant: self.tenant,
            rate: Rate { requests: self.rate, tokens: self.token_rate },
            expires: self.expires.duration().map(|time| now().saturating_add(time.as_secs())),
        })?;
        if self.json {
            let mut body = shown(&record);
            body["key"] = json!(key.reveal());
            return print_json(&body);
        }
        session.console.note(&format!(
            "made {} in {}; keep the key, it cannot be shown again",
            record.id,
            file.path().display()
        ));
        print(&format!("{}\n", key.reveal()))
    }
}

impl List {
    fn run(self, file: &KeyFile) -> Result<()> {
        let keys = file.list()?;
        if self.json {
            let keys: Vec<Value> = keys.iter().map(shown).collect();
            return print_json(&json!({ "file": file.path(), "keys": keys }));
        }
        if keys.is_empty() {
            return print(&format!("no keys in {}\n", file.path().display()));
        }
        let header = ["id", "name", "state", "scopes", "made", "ends", "rate"].map(str::to_owned);
        let mut rows = vec![header.to_vec()];
        rows.extend(keys.iter().map(row));
        print(&table(&rows))
    }
}

impl Revoke {
    fn run(self, session: &Session, file: &KeyFile) -> Result<()> {
        let record = file.revoke(&self.key)?;
        if self.json {
            return print_json(&shown(&record));
        }
        session.console.note(&format!("revoked {} ({})", record.id, record.name));
        Ok(())
    }
}

fn row(key: &KeyRecord) -> Vec<String> {
    let now = now();
    let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.as_str()).collect();
    let time = |seconds: u64| duration(Duration::from_secs(seconds));
    let ends = match key.expires {
        None => "never".to_owned(),
        Some(end) if end <= now => format!("{} ago", time(now - end)),
        Some(end) => format!("in {}", time(end - now)),
    };
    let limits = [("requests", key.rate.requests), ("tokens", key.rate.tokens)];
    let rates: Vec<String> = limits
        .iter()
        .filter_map(|(what, limit)| limit.map(|limit| format!("{limit} {what}/min")))
        .collect();
    vec![
        key.id.clone(),
        key.name.clone(),
        key.state(now).to_owned(),
        scopes.join(","),
        format!("{} ago", time(now.saturating_sub(key.created))),
        ends,
        rates.join(", "),
    ]
}

fn shown(key: &KeyRecord) -> Value {
    json!({
        "id": key.id,
        "name": key.name,
        "tenant": key.tenant,
        "state": key.state(now()),
        "scopes": key.scopes,
        "created": key.created,
        "expires": key.expires,
        "revoked": key.revoked,
        "requests_per_minute": key.rate.requests,
        "tokens_per_minute": key.rate.tokens,
    })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
