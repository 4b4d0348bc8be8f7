//! SIGHUP: settings, keys and certificate are read again.

use std::future::Future;

use hapa_server::Control;
use tokio::signal::unix::{SignalKind, signal};

use super::{manager, options};
use crate::error::{CliError, Result};
use crate::session::Session;

/// Settings that a running server takes over, besides all of `alerts`.
const RELOADED: [&str; 11] = [
    "log",
    "server.body_limit",
    "server.header_timeout",
    "server.body_timeout",
    "server.write_timeout",
    "server.grace",
    "server.request_timeout",
    "server.allowed_hosts",
    "server.cors_origins",
    "server.tls_certificate",
    "server.tls_key",
];

/// Reads everything again at each SIGHUP. From the moment that this is called the signal no longer ends the process.
///
/// # Errors
/// When the system refuses.
pub(super) fn on_hangup(
    session: Session,
    control: Control,
) -> Result<impl Future<Output = ()> + Send + 'static> {
    let mut hangups = signal(SignalKind::hangup())
        .map_err(|e| CliError::Failed(format!("could not listen for signals: {e}")))?;
    Ok(async move {
        while hangups.recv().await.is_some() {
            manager::reloading();
            let (started, control) = (session.clone(), control.clone());
            let reloaded = tokio::task::spawn_blocking(move || reload(&started, &control)).await;
            match reloaded {
                Ok(Ok(())) => {
                    session.console.note("settings, keys and certificate were read again");
                }
                Ok(Err(error)) => {
                    let report = error.report();
                    session.console.error(&format!("nothing was reloaded: {report}"));
                }
                Err(error) => session.console.error(&format!("nothing was reloaded: {error}")),
            }
            manager::ready();
        }
    })
}

fn reload(started: &Session, control: &Control) -> Result<()> {
    let now = started.reread()?;
    control.reload(options::options(&now)?)?;
    now.console.change_logs(&now.settings.log)?;
    for key in started.layers.changed(&now.layers) {
        if !RELOADED.contains(&key) && !key.starts_with("alerts.") {
            now.console.warn(&format!("the setting {key} was changed; it takes a restart"));
        }
    }
    Ok(())
}
