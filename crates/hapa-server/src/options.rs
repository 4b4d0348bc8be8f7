//! Settings of a server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::alerts::AlertOptions;
use crate::auth::KeyFile;
use crate::cors;
use crate::error::ServerError;
use crate::otlp::OtlpOptions;
use crate::tls::TlsFiles;

/// Settings of a [`crate::Server`]. The defaults suit an editor on the same machine.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Where to listen. Port 0 takes a free one. Without keys only loopback addresses are allowed.
    pub address: SocketAddr,
    /// Largest request body; a larger one gets 413.
    pub max_body_bytes: usize,
    /// A connection must bring a whole request head in this time; it is also how long an idle kept-alive connection
    /// stays open.
    pub header_timeout: Duration,
    /// A request must bring its body in this time.
    pub body_timeout: Duration,
    /// A client must take some of what it is sent in this time.
    pub write_timeout: Duration,
    /// Longest time that an answer may take; a request may ask for less with `x-request-timeout`. `None` for no such limit.
    pub request_timeout: Option<Duration>,
    /// Most connections at once; more wait to be accepted.
    pub max_connections: usize,
    /// How long a shutdown waits for answers under way.
    pub grace: Duration,
    /// How often an event stream that has nothing to say sends a comment, so that nobody on the way closes it.
    pub keep_alive_interval: Duration,
    /// Most requests in one batch.
    pub max_batch: usize,
    /// Host names, beside the loopback ones, that requests may be addressed to: those of a reverse proxy. Others
    /// are refused, so that a web page cannot reach the server through a name that it makes resolve to loopback.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages, as `https://app.example`, that may read answers. Pages of others can't; none by default.
    pub cors_origins: Vec<String>,
    /// Certificate and key; without them connections are not encrypted.
    pub tls: Option<TlsFiles>,
    /// API keys. Once the file holds keys they are demanded, also when it comes to be while the server runs.
    pub keys: Option<KeyFile>,
    /// The name under which the model is served; its own by default.
    pub model_name: Option<String>,
    /// Conditions that are logged when they begin and end, and sent to a webhook.
    pub alerts: AlertOptions,
    /// Spans of requests for OpenTelemetry.
    pub otlp: OtlpOptions,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000),
            max_body_bytes: 2 << 20,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            request_timeout: None,
            max_connections: 16_384,
            grace: Duration::from_secs(10),
            keep_alive_interval: Duration::from_secs(15),
            max_batch: 64,
            allowed_hosts: Vec::new(),
            cors_origins: Vec::new(),
            tls: None,
            keys: None,
            model_name: None,
            alerts: AlertOptions::default(),
            otlp: OtlpOptions::default(),
        }
    }
}

impl ServerOptions {
    /// An address that others can reach takes a key that is in force.
    pub(crate) fn check_address(&self, has_key: bool) -> Result<(), ServerError> {
        if self.address.ip().is_loopback() || has_key {
            return Ok(());
        }
        Err(ServerError::NotLoopback { address: self.address })
    }

    pub(crate) fn check(&self) -> Result<(), ServerError> {
        if let Some(webhook) = &self.alerts.webhook {
            webhook.check()?;
        }
        self.otlp.check()?;
        for origin in &self.cors_origins {
            cors::check_origin(origin)
                .map_err(|problem| ServerError::BadOption { option: "cors_origins", problem })?;
        }
        let least = [
            ("max_body_bytes", self.max_body_bytes, 1024),
            ("max_connections", self.max_connections, 1),
            ("max_batch", self.max_batch, 1),
        ];
        for (option, value, least) in least {
            if value < least {
                return Err(ServerError::BadOption {
                    option,
                    problem: format!("is {value}; at least {least} is needed"),
                });
            }
        }
        let times = [
            ("header_timeout", self.header_timeout),
            ("body_timeout", self.body_timeout),
            ("write_timeout", self.write_timeout),
            ("keep_alive_interval", self.keep_alive_interval),
        ];
        let request = self.request_timeout.map(|time| ("request_timeout", time));
        for (option, value) in times.into_iter().chain(request) {
            if value.is_zero() {
                return Err(ServerError::BadOption {
                    option,
                    problem: "is 0; it must be longer".to_owned(),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_without_keys() {
        let mut options = ServerOptions::default();
        assert!(options.check_address(false).is_ok());
        for address in ["0.0.0.0:8000", "192.168.1.2:0", "[::]:80"] {
            options.address = address.parse().unwrap();
            let error = options.check_address(false).unwrap_err().to_string();
            assert!(error.contains(address) && error.contains("hapa keys create"), "{error}");
            assert!(options.check_address(true).is_ok());
        }
        options.address = "[::1]:0".parse().unwrap();
        assert!(options.check_address(false).is_ok());
    }

    #[test]
    fn options_that_bound_nothing_are_refused() {
        assert!(ServerOptions { max_body_bytes: 0, ..Default::default() }.check().is_err());
        assert!(
            ServerOptions { header_timeout: Duration::ZERO, ..Default::default() }.check().is_err()
        );
    }
}
