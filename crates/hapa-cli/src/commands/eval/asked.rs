//! Who is asked: a server, or this process' own model, which is served on a free loopback port so that every model is asked
//! in the same way. And who gave no answer.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use hapa_loadtest::{Api, Target, TargetOptions};
use hapa_server::{AlertOptions, BoundServer, Server, ServerOptions};
use hapa_service::Service;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::error::{CliError, Result};
use crate::progress::Progress;
use crate::session::Session;

/// Who is asked.
#[derive(Debug, Args)]
pub(super) struct AskedArgs {
    /// A server to ask, in place of the model in this process
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Key of that server
    #[arg(
        long,
        value_name = "KEY",
        env = "HAPA_API_KEY",
        hide_env_values = true,
        requires = "url"
    )]
    key: Option<String>,
    /// The model that requests to that server name
    #[arg(long, value_name = "NAME", requires = "url")]
    request_model: Option<String>,
}

impl AskedArgs {
    /// The model by name, and whose it is: results of others do not compare.
    pub(super) fn name(&self, session: &Session) -> String {
        match &self.url {
            Some(url) => format!("{}@{url}", self.request_model.as_deref().unwrap_or("default")),
            None => session.settings.model.clone(),
        }
    }

    /// Where requests go. The model of this process is served while what comes with it lives.
    ///
    /// # Errors
    /// For a model that cannot be served, and an address that is none.
    pub(super) fn target(
        &self,
        session: &Session,
        api: Api,
    ) -> Result<(Target, Option<LocalServer>)> {
        let local = match &self.url {
            Some(_) => None,
            None => Some(LocalServer::start(session)?),
        };
        let here = || local.as_ref().map(|local| local.url.clone());
        let target = Target::new(TargetOptions {
            url: self.url.clone().or_else(here).unwrap_or_default(),
            api,
            key: self.key.clone(),
            model: self.request_model.clone(),
            whole: true,
            headers: Vec::new(),
        })?;
        Ok((target, local))
    }
}

/// Why there is no answer, and how often.
#[derive(Debug, Default)]
pub(super) struct Unanswered(BTreeMap<String, usize>);

impl Unanswered {
    pub(super) fn note(&mut self, reason: String) {
        *self.0.entry(reason).or_default() += 1;
    }

    pub(super) fn count(&self) -> usize {
        self.0.values().sum()
    }

    /// # Errors
    /// Where there are any: how many, `what` happened to them, and the most frequent reason.
    pub(super) fn none_or(&self, what: &str) -> Result<()> {
        match self.0.iter().max_by_key(|(_, count)| **count) {
            Some((reason, _)) => {
                Err(CliError::Failed(format!("{} {what}, most of them: {reason}", self.count())))
            }
            None => Ok(()),
        }
    }
}

/// Serves while it lives.
pub(super) struct LocalServer {
    url: String,
    stop: Option<oneshot::Sender<()>>,
    runtime: Option<Runtime>,
    _progress: Progress,
}

impl LocalServer {
    fn start(session: &Session) -> Result<Self> {
        // Judged is what this program answers, not what another version of it left in a cache.
        let service = Service::new(session.bare_service_options()?)?;
        let options = ServerOptions {
            address: ([127, 0, 0, 1], 0).into(),
            // All is asked as fast as it goes: how long an answer waits is nobody's alarm.
            alerts: AlertOptions { interval: Duration::ZERO, ..AlertOptions::default() },
            ..ServerOptions::default()
        };
        let server = Server::new(options, service.clone())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| CliError::Failed(format!("could not start the async runtime: {e}")))?;
        let bound: BoundServer = runtime.block_on(server.bind())?;
        let url = format!("http://{}", bound.local_addr());
        let (stop, stopped) = oneshot::channel::<()>();
        runtime.spawn(bound.serve(async {
            let _ = stopped.await;
        }));
        let progress = Progress::of_service(&session.console, &service);
        Ok(Self { url, stop: Some(stop), runtime: Some(runtime), _progress: progress })
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(runtime) = self.runtime.take() {
            // A generation that nobody waits for any more must not hold the process.
            runtime.shutdown_background();
        }
    }
}
