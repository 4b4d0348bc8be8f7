//! TLS: certificate and key out of files, read again when they change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::ServerError;
use crate::stamp::{LOOK, Stamp};

/// Where the server's certificate is. Both files are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, then those of the authorities between it and a trusted one.
    pub certificate: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
}

/// What connections are encrypted with.
pub(crate) struct Tls(RwLock<Current>);

struct Current {
    files: TlsFiles,
    stamps: [Option<Stamp>; 2],
    config: Arc<ServerConfig>,
}

impl TlsFiles {
    fn stamps(&self) -> [Option<Stamp>; 2] {
        [Stamp::of(&self.certificate), Stamp::of(&self.key)]
    }

    fn load(&self) -> Result<Arc<ServerConfig>, ServerError> {
        let failed =
            |path: &Path, problem: String| ServerError::Tls { path: path.to_owned(), problem };
        let in_certificate = |problem: String| failed(&self.certificate, problem);
        let certificates = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| in_certificate(said(error)))?;
        if certificates.is_empty() {
            return Err(in_certificate("it holds no certificate in PEM form".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| failed(&self.key, said(error)))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| in_certificate(error.to_string()))?
            .with_no_client_auth()
            .with_single_cert(certificates, key)
            .map_err(|error| in_certificate(format!("it and the key do not fit: {error}")))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn said(error: pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`ServerError::Tls`] when they cannot be read, or do not belong together.
    pub(crate) fn open(files: TlsFiles) -> Result<Self, ServerError> {
        // Before reading: what is written in between is seen at the next look.
        let stamps = files.stamps();
        let config = files.load()?;
        Ok(Self(RwLock::new(Current { files, stamps, config })))
    }

    /// Reads files, these or others than before. What was in force stays when that fails; connections that are open keep
    /// what they began with.
    ///
    /// # Errors
    /// As [`Tls::open`].
    pub(crate) fn reload(&self, files: TlsFiles) -> Result<(), ServerError> {
        let stamps = files.stamps();
        let loaded = files.load();
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        current.stamps = stamps;
        let config = loaded?;
        *current = Current { files, stamps, config };
        Ok(())
    }

    /// What the next connection is encrypted with.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&current.config))
    }

    fn changed(&self) -> Option<TlsFiles> {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        (current.files.stamps() != current.stamps).then(|| current.files.clone())
    }

    /// Follows the files until it is dropped with the server's task. Between the writing of one file and of the other they
    /// do not fit, and the look after that finds both.
    pub(crate) async fn follow(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let tls = Arc::clone(&self);
            let looked =
                tokio::task::spawn_blocking(move || tls.changed().map(|files| tls.reload(files)));
            match looked.await {
                Ok(Some(Ok(()))) => tracing::info!("the certificate was read again"),
                Ok(Some(Err(error))) => {
                    tracing::error!(%error, "the certificate that was read last stays in force");
                }
                Ok(None) | Err(_) => {}
            }
        }
    }
}
