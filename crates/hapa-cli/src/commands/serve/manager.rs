//! The service manager: sockets that it opened, and what it wants to know. All of this does nothing without one.

use std::net::TcpListener;

use futures_util::future::select_all;
use hapa_service::{LoadState, Service, stage};
use listenfd::ListenFd;
use sd_notify::NotifyState;

use crate::error::{CliError, Result};

/// The sockets that were handed over; none means that the server opens its own.
///
/// # Errors
/// [`CliError::Failed`] for one that does not listen for TCP.
pub(super) fn sockets() -> Result<Vec<TcpListener>> {
    let mut handed = ListenFd::from_env();
    let taken = (0..handed.len()).map(|index| handed.take_tcp_listener(index));
    let sockets: std::io::Result<Vec<_>> = taken.filter_map(Result::transpose).collect();
    sockets.map_err(|error| {
        CliError::Failed(format!("a socket of the service manager cannot be used: {error}"))
    })
}

/// The server answers.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The server takes its settings over; [`ready`] ends it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The server lets answers under way finish.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("answers under way may finish")]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

/// Says that the server is ready, what the model does, and, where a watchdog waits for it, that the runtime lives.
pub(super) async fn attend(service: Service) {
    ready();
    let mut models: Vec<_> =
        service.models().map(|one| (one.name().to_owned(), one.model().subscribe())).collect();
    drop(service);
    let watchdog = sd_notify::watchdog_enabled();
    let period = watchdog.map(|limit| limit / 2).filter(|period| !period.is_zero());
    let mut told = String::new();
    loop {
        let states: Vec<String> = models
            .iter_mut()
            .map(|(name, state)| match &*state.borrow_and_update() {
                LoadState::Loading { event } => format!("{name}: loading, {}", stage(event)),
                other => format!("{name}: {}", other.name()),
            })
            .collect();
        let status = states.join("; ");
        if status != told {
            tell(&[NotifyState::Status(&status)]);
            told = status;
        }
        let changed = select_all(models.iter_mut().map(|(_, state)| Box::pin(state.changed())));
        let tick = async {
            match period {
                Some(period) => tokio::time::sleep(period).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            (changed, ..) = changed => if changed.is_err() { return },
            () = tick => {}
        }
        if period.is_some() {
            tell(&[NotifyState::Watchdog]);
        }
    }
}
