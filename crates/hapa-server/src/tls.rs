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

/// Those of the certificate's file and of the key's.
type Stamps = [Option<Stamp>; 2];

struct Current {
    files: TlsFiles,
    stamps: Stamps,
    config: Arc<ServerConfig>,
}

impl TlsFiles {
    fn stamps(&self) -> Stamps {
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

    /// One look at the files. A change is read when this look and the one before it saw the same: between the writing of
    /// one file and of the other they do not fit.
    fn look(&self, before: &mut Option<Stamps>) -> Option<Result<(), ServerError>> {
        let (files, read) = {
            let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
            (current.files.clone(), current.stamps)
        };
        let seen = Some(files.stamps()).filter(|stamps| *stamps != read);
        let still = seen.is_some() && seen == *before;
        *before = seen;
        still.then(|| self.reload(files))
    }

    /// Follows the files until it is dropped with the server's task.
    pub(crate) async fn follow(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut before = None;
        loop {
            ticks.tick().await;
            let tls = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || {
                let read = tls.look(&mut before);
                (before, read)
            });
            let Ok((seen, read)) = looked.await else { continue };
            before = seen;
            match read {
                Some(Ok(())) => tracing::info!("the certificate was read again"),
                Some(Err(error)) => {
                    tracing::error!(%error, "the certificate that was read last stays in force");
                }
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_when_both_were_written_and_hold_still() {
        let folder = tempfile::tempdir().unwrap();
        let files = TlsFiles {
            certificate: folder.path().join("cert.pem"),
            key: folder.path().join("key.pem"),
        };
        let made = || rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let first = made();
        std::fs::write(&files.certificate, first.cert.pem()).unwrap();
        std::fs::write(&files.key, first.signing_key.serialize_pem()).unwrap();
        let tls = Tls::open(files.clone()).unwrap();
        let mut before = None;
        assert!(tls.look(&mut before).is_none(), "nothing changed");
        let next = made();
        // Renamed over, as programs that renew do: another inode, whatever the clock's steps.
        let replace = |path: &Path, text: String| {
            let beside = path.with_extension("new");
            std::fs::write(&beside, text).unwrap();
            std::fs::rename(beside, path).unwrap();
        };
        replace(&files.key, next.signing_key.serialize_pem());
        assert!(tls.look(&mut before).is_none(), "one look saw it");
        replace(&files.certificate, next.cert.pem());
        assert!(tls.look(&mut before).is_none(), "it went on changing");
        tls.look(&mut before).unwrap().unwrap();
        assert!(tls.look(&mut before).is_none(), "it was read");
        replace(&files.key, first.signing_key.serialize_pem());
        assert!(tls.look(&mut before).is_none());
        tls.look(&mut before).unwrap().unwrap_err();
        assert!(tls.look(&mut before).is_none(), "a mistake is told once");
    }
}
