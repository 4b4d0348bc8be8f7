//! `hapa serve`: the HTTP API.

use std::net::{SocketAddr, ToSocketAddrs};

use clap::Args;
use hapa_server::{Server, ServerOptions};
use hapa_service::Service;

use crate::console::Console;
use crate::error::{CliError, Result};
use crate::interrupt::{Signal, Signals};
use crate::progress::Progress;
use crate::session::{KEEPING, ModelArgs, Session};
use crate::settings::Flags;

/// Answers that are taken from disk into memory at the start.
const WARM_ANSWERS: usize = 1_000;

/// Serve HAPA's own HTTP API and OpenAI's
///
/// Starts in milliseconds; the model is loaded by the first request, or at once with --preload. Ctrl-C or SIGTERM lets
/// answers under way finish; a second one ends at once.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa serve
  hapa serve --port 0 --preload --log info
  hapa serve --config team.toml --print-config
  curl -s localhost:8000/v1/chat/completions -H 'content-type: application/json' \\
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"reverse a linked list\"}]}'")]
pub(crate) struct Serve {
    /// Address to listen on; without keys (`hapa keys create`) only loopback ones are allowed
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// Port to listen on; 0 is any free one, which is printed
    #[arg(long, short, value_name = "PORT")]
    port: Option<u16>,
    /// Load the model now, not at the first request
    #[arg(long)]
    preload: bool,
    /// Print the settings in force, each with its source, and do nothing
    #[arg(long)]
    pub(crate) print_config: bool,
    #[command(flatten)]
    model: ModelArgs,
}

impl Serve {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        self.model.flags(flags);
        flags
            .set("server.host", self.host.as_deref(), "--host")
            .set("server.port", self.port.map(i64::from), "--port")
            .set("server.preload", self.preload.then_some(true), "--preload");
    }

    /// # Errors
    /// For an address that cannot be had, and settings that make no server.
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let service = session.service()?;
        let options = options(session)?;
        let server = Server::new(options, service.clone())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|e| CliError::Failed(format!("could not start the async runtime: {e}")))?;
        let ended = runtime.block_on(serve(session, server, service));
        // A load or generation that nobody waits for any more must not hold the process.
        runtime.shutdown_background();
        ended
    }
}

async fn serve(session: &Session, server: Server, service: Service) -> Result<()> {
    let mut signals = Signals::listen()?;
    let server = server.bind().await?;
    let model = &session.settings.model;
    session.console.note(&format!("serving {model} at http://{}", server.local_addr()));
    let progress = Progress::of_model(&session.console, service.model());
    // Answers of the last run, while nobody waits for anything yet.
    let warming = tokio::spawn({
        let service = service.clone();
        async move { service.warm_cache(WARM_ANSWERS).await }
    });
    let kept = service.clone();
    let preload = session
        .settings
        .server
        .preload
        .then(|| tokio::spawn(load(session.console.clone(), service)));
    let mut stopped_by = Signal::Terminate;
    let stopped = &mut stopped_by;
    let shutdown = async move {
        *stopped = signals.next().await;
        session.console.note("answers under way may finish; Ctrl-C again stops at once");
        tokio::spawn(async move {
            let again = signals.next().await;
            std::process::exit(again.exit_code().into());
        });
    };
    server.serve(shutdown).await;
    warming.abort();
    if tokio::time::timeout(KEEPING, kept.flush_cache()).await.is_err() {
        tracing::warn!("the last answers were not stored in time");
    }
    if let Some(preload) = preload {
        preload.abort();
    }
    drop(progress);
    match stopped_by {
        Signal::Interrupt => Err(CliError::Stopped(Signal::Interrupt)),
        // A service manager asked for this, and it was done.
        Signal::Terminate => Ok(()),
    }
}

/// Loads the model early. A failure is no end: the next request tries again.
async fn load(console: Console, service: Service) {
    match service.load().await {
        Ok(lease) => console.note(&format!("{} is loaded", lease.info().name)),
        Err(error) => console.warn(&format!("the model was not loaded: {error}")),
    }
}

fn options(session: &Session) -> Result<ServerOptions> {
    let server = &session.settings.server;
    let body_limit = usize::try_from(server.body_limit.0).unwrap_or(usize::MAX);
    let names = server.allowed_hosts.split(',').map(str::trim).filter(|name| !name.is_empty());
    Ok(ServerOptions {
        address: address(&server.host, server.port)?,
        max_body_bytes: body_limit,
        keys: session.key_file()?,
        allowed_hosts: names.map(str::to_owned).collect(),
        alerts: session.settings.alerts.options()?,
        otlp: session.settings.otlp.options(),
        ..ServerOptions::default()
    })
}

/// The address of a host, given as one or by name.
fn address(host: &str, port: u16) -> Result<SocketAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let found = (bare, port).to_socket_addrs().map(|mut found| found.next());
    match found {
        Ok(Some(address)) => Ok(address),
        Ok(None) => Err(CliError::usage(format!("the host `{host}` has no address"))),
        Err(error) => Err(CliError::usage(format!(
            "the host `{host}` is no address and could not be looked up: {error}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_addresses_or_names() {
        assert_eq!(address("127.0.0.1", 8000).unwrap().to_string(), "127.0.0.1:8000");
        assert_eq!(address("[::1]", 1).unwrap().to_string(), "[::1]:1");
        assert!(address("localhost", 1).unwrap().ip().is_loopback());
        assert_eq!(address("no host", 1).unwrap_err().exit_code(), 2);
    }
}
