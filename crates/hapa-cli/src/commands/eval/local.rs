//! A server of this process' own model on a free loopback port, so that every model is asked in the same way.

use hapa_server::{BoundServer, Server, ServerOptions};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::error::{CliError, Result};
use crate::progress::Progress;
use crate::session::Session;

/// Serves while it lives.
pub(super) struct LocalServer {
    url: String,
    stop: Option<oneshot::Sender<()>>,
    runtime: Option<Runtime>,
    _progress: Progress,
}

impl LocalServer {
    pub(super) fn start(session: &Session) -> Result<Self> {
        let service = session.service()?;
        let options =
            ServerOptions { address: ([127, 0, 0, 1], 0).into(), ..ServerOptions::default() };
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
        let progress = Progress::of_model(&session.console, service.model());
        Ok(Self { url, stop: Some(stop), runtime: Some(runtime), _progress: progress })
    }

    pub(super) fn url(&self) -> String {
        self.url.clone()
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
