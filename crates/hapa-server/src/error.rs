//! What can go wrong with the server itself, as opposed to one request ([`crate::problem`]).

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::auth::KeyFileError;

/// An error of starting or running a server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address can be reached from other machines.
    #[error(
        "refused to listen on {address}: it can be reached from other machines, and no API key is in force; make one with \
         `hapa keys create --name NAME --scope SCOPE`, or listen on 127.0.0.1"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The file of keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// The certificate or its key cannot be used.
    #[error("TLS: {}: {problem}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A setting makes no sense.
    #[error("server option `{option}` {problem}")]
    BadOption {
        /// The setting.
        option: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The address cannot be had.
    #[error(
        "could not listen on {address}: {source}; choose another port, or stop the program that has it"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}
