//! What can go wrong when metrics are set up.

/// Errors of this crate. Recording and rendering never fail.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// Another recorder is installed already; a process has one.
    #[error(
        "installing the metrics recorder: this process has a global recorder already; install one \
         once, at the start of main, or use `Exporter::local()` in tests"
    )]
    AlreadyInstalled,
}
