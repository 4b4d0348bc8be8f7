//! `hapa serve`: the HTTP API.
//!
//! - `options`: the server's options out of the settings;
//! - `reload`: SIGHUP;
//! - `manager`: what a service manager (systemd) hands over and wants to be told.

#[cfg(unix)]
mod manager;
mod options;
#[cfg(unix)]
mod reload;

use clap::Args;
use hapa_server::{BoundServer, Server};
use hapa_service::{ModelRef, Service};

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
/// answers under way finish; a second one ends at once. SIGHUP reads settings, keys and certificate again.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hapa serve
  hapa serve --port 0 --preload --log info
  hapa serve --also smollm2-135m --also ./mine.gguf --memory-budget 4GiB
  hapa serve --config team.toml --print-config
  curl -s localhost:8000/v1/chat/completions -H 'content-type: application/json' \\
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"reverse a linked list\"}]}'")]
pub(crate) struct Serve {
    /// Address to listen on; without keys (`hapa keys create`) only loopback ones are allowed
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// A further model that requests may name beside --model; may be given several times
    #[arg(long, value_name = "MODEL")]
    also: Vec<String>,
    /// Most memory that loaded models may hold together, as 4GiB; those used least recently leave for others
    #[arg(long, value_name = "SIZE")]
    memory_budget: Option<String>,
    /// Port to listen on; 0 is any free one, which is printed
    #[arg(long, short, value_name = "PORT")]
    port: Option<u16>,
    /// Certificate for https, in PEM form, with those of the authorities after it; read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<String>,
    /// Private key of the certificate, in PEM form
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<String>,
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
        let also = (!self.also.is_empty()).then(|| self.also.clone());
        flags
            .set("models", also, "--also")
            .set("engine.memory_budget", self.memory_budget.as_deref(), "--memory-budget")
            .set("server.host", self.host.as_deref(), "--host")
            .set("server.tls_certificate", self.tls_cert.as_deref(), "--tls-cert")
            .set("server.tls_key", self.tls_key.as_deref(), "--tls-key")
            .set("server.port", self.port.map(i64::from), "--port")
            .set("server.preload", self.preload.then_some(true), "--preload");
    }

    /// # Errors
    /// For an address that cannot be had, and settings that make no server.
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        // Before there are other threads: what was handed over is taken out of the environment.
        #[cfg(unix)]
        let sockets = manager::sockets()?;
        #[cfg(not(unix))]
        let sockets = Vec::new();
        raise_open_files();
        let service = session.shared_service()?;
        let server = Server::new(options::options(session)?, service.clone())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|e| CliError::Failed(format!("could not start the async runtime: {e}")))?;
        let ended = runtime.block_on(async {
            let server = match sockets.is_empty() {
                true => server.bind().await?,
                false => server.listen_on(sockets)?,
            };
            serve(session, server, service).await
        });
        // A load or generation that nobody waits for any more must not hold the process.
        runtime.shutdown_background();
        ended
    }
}

/// Lets the process have as many connections as the system allows: the usual limit is a relic of `select`.
fn raise_open_files() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!(%error, "the limit of open files stays as it is");
        }
    }
}

async fn serve(session: &Session, server: BoundServer, service: Service) -> Result<()> {
    let mut signals = Signals::listen()?;
    let address = server.local_addr();
    let settings = &session.settings;
    let models: Vec<&str> = std::iter::once(settings.model.as_str())
        .chain(settings.models.0.iter().map(String::as_str))
        .collect();
    let models = models.join(", ");
    let scheme = if session.settings.server.tls_certificate.is_empty() { "http" } else { "https" };
    session.console.note(&format!("serving {models} at {scheme}://{address}"));
    warn_of_large(session, &service);
    #[cfg(unix)]
    let attending = [
        tokio::spawn(reload::on_hangup(session.clone(), server.control())?),
        tokio::spawn(manager::attend(service.clone())),
    ];
    let progress = Progress::of_service(&session.console, &service);
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
        #[cfg(unix)]
        manager::stopping();
        session.console.note("answers under way may finish; Ctrl-C again stops at once");
        tokio::spawn(async move {
            let again = signals.next().await;
            std::process::exit(again.exit_code().into());
        });
    };
    server.serve(shutdown).await;
    #[cfg(unix)]
    attending.iter().for_each(tokio::task::JoinHandle::abort);
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

/// Warns of models whose file alone is larger than the memory that all may hold: each is loaded when all others have left.
fn warn_of_large(session: &Session, service: &Service) {
    let budget = session.settings.engine.memory_budget;
    if budget.0 == 0 {
        return;
    }
    for model in service.models() {
        let bytes = match model.reference() {
            ModelRef::Catalog(model) => model.bytes,
            ModelRef::Path(path) => std::fs::metadata(path).map_or(0, |file| file.len()),
            ModelRef::Hub { .. } => 0,
        };
        if bytes > budget.0 {
            session.console.warn(&format!(
                "the file of {} has {bytes} bytes, more than engine.memory_budget ({budget}); it will be loaded alone",
                model.name()
            ));
        }
    }
}

/// Loads the model early. A failure is no end: the next request tries again.
async fn load(console: Console, service: Service) {
    match service.load().await {
        Ok(lease) => console.note(&format!("{} is loaded", lease.info().name)),
        Err(error) => console.warn(&format!("the model was not loaded: {error}")),
    }
}
