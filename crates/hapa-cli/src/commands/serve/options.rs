//! The server's options out of the settings.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use hapa_server::{KeyFile, ServerOptions, TlsFiles};

use crate::error::{CliError, Result};
use crate::session::{Session, expand_home};
use crate::settings::Period;

/// What the server is made from.
///
/// # Errors
/// [`CliError::Usage`] for settings that make no server.
pub(super) fn options(session: &Session) -> Result<ServerOptions> {
    let server = &session.settings.server;
    let body_limit = usize::try_from(server.body_limit.0).unwrap_or(usize::MAX);
    Ok(ServerOptions {
        address: address(&server.host, server.port)?,
        max_body_bytes: body_limit,
        max_connections: server.max_connections,
        header_timeout: time("header_timeout", server.header_timeout)?,
        body_timeout: time("body_timeout", server.body_timeout)?,
        write_timeout: time("write_timeout", server.write_timeout)?,
        grace: time("grace", server.grace)?,
        request_timeout: server.request_timeout.duration(),
        keys: keys(session)?,
        tls: tls(&server.tls_certificate, &server.tls_key)?,
        allowed_hosts: list(&server.allowed_hosts),
        cors_origins: list(&server.cors_origins),
        alerts: session.settings.alerts.options()?,
        otlp: session.settings.otlp.options(),
        ..ServerOptions::default()
    })
}

/// The file of keys. One that the settings name must be there: a name that is wrong would else let everybody in.
fn keys(session: &Session) -> Result<Option<KeyFile>> {
    let file = session.key_file()?;
    let is_named = !session.settings.server.key_file.trim().is_empty();
    match &file {
        Some(file) if is_named && !file.path().exists() => Err(CliError::usage(format!(
            "there is no key file {}, which the setting server.key_file names; `hapa keys create` with the same setting makes it, \
             and `none` serves without keys",
            file.path().display()
        ))),
        _ => Ok(file),
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn time(name: &str, period: Period) -> Result<Duration> {
    period.duration().ok_or_else(|| {
        CliError::usage(format!(
            "the setting server.{name} is `never`; a time, such as 30s, is needed"
        ))
    })
}

fn tls(certificate: &str, key: &str) -> Result<Option<TlsFiles>> {
    match (certificate.trim(), key.trim()) {
        ("", "") => Ok(None),
        ("", _) => Err(CliError::usage("server.tls_key is set and server.tls_certificate is not")),
        (_, "") => Err(CliError::usage("server.tls_certificate is set and server.tls_key is not")),
        (certificate, key) => {
            Ok(Some(TlsFiles { certificate: expand_home(certificate), key: expand_home(key) }))
        }
    }
}

/// The address of a host, given as one or by name.
fn address(host: &str, port: u16) -> Result<SocketAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let found = (bare, port).to_socket_addrs().map(|mut found| found.next());
    match found {
        Ok(Some(address)) => Ok(address),
        Ok(None) => Err(CliError::usage(format!("the host `{host}` has no address"))),
        Err(error) => Err(CliError::usage(format!(
            "the host `{host}` is no address and could not be looked up: {error}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_addresses_or_names() {
        assert_eq!(address("127.0.0.1", 8000).unwrap().to_string(), "127.0.0.1:8000");
        assert_eq!(address("[::1]", 1).unwrap().to_string(), "[::1]:1");
        assert!(address("localhost", 1).unwrap().ip().is_loopback());
        assert_eq!(address("no host", 1).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_certificate_needs_its_key_and_a_timeout_an_end() {
        assert_eq!(tls("", " ").unwrap(), None);
        assert!(tls("a.pem", "b.pem").unwrap().is_some());
        assert_eq!(tls("a.pem", "").unwrap_err().exit_code(), 2);
        assert_eq!(tls("", "b.pem").unwrap_err().exit_code(), 2);
        assert!(time("grace", Period::NEVER).unwrap_err().to_string().contains("server.grace"));
        assert_eq!(list(" a, ,b"), ["a", "b"]);
    }
}
