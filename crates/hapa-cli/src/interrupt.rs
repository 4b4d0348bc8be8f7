//! Ctrl-C and requests to terminate: the first ends a command cleanly, the second at once.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::console::Console;
use crate::error::{CliError, Result};

/// Why a command was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// What a service manager sends.
    Terminate,
}

impl Signal {
    /// 128 and the signal's number, as shells have it.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "Ctrl-C",
            Self::Terminate => "a request to terminate",
        })
    }
}

/// The signals of this process. From the moment that this is made they no longer kill it.
pub(crate) struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    /// Begins to listen. Needs a runtime.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn listen() -> Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let failed = |e| CliError::Failed(format!("could not listen for signals: {e}"));
            Ok(Self {
                interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
                terminate: signal(SignalKind::terminate()).map_err(failed)?,
            })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Signal {
        #[cfg(unix)]
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
        }
        #[cfg(not(unix))]
        {
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
            Signal::Interrupt
        }
    }
}

/// Runs a command's work on a runtime of its own. A signal drops the work and waits for `wind_down`: threads that still
/// tidy up what the work had begun. Another signal ends the process at once, whatever it is doing.
///
/// # Errors
/// What the work fails with; [`CliError::Stopped`].
pub(crate) fn run<T>(
    console: &Console,
    work: impl Future<Output = Result<T>>,
    wind_down: impl Future<Output = ()>,
) -> Result<T> {
    // The work runs on this thread and may block it, on a pipe that nobody reads; signals are seen on another.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|e| CliError::Failed(format!("could not start the async runtime: {e}")))?;
    let result = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let (first, stopped) = oneshot::channel();
        tokio::spawn(async move {
            let _ = first.send(signals.next().await);
            let again = signals.next().await;
            std::process::exit(again.exit_code().into());
        });
        let signal = tokio::select! {
            result = work => return result,
            Ok(signal) = stopped => signal,
        };
        let impatient = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            console.note("stopping; Ctrl-C again stops at once");
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = wind_down => {}
            () = impatient => {}
        }
        Err(CliError::Stopped(signal))
    });
    // A thread that still reads standard input must not hold the process.
    runtime.shutdown_background();
    result
}
