//! Alerts of this process: to the log, and to a webhook.
//!
//! A message is JSON, `{alert, firing, message, value, threshold, timestamp, instance}`, signed so that the receiver can tell
//! it from anybody else's: `x-hapa-timestamp` holds seconds since 1970, and `x-hapa-signature` is `sha256=` and the
//! hexadecimal HMAC-SHA256 of timestamp, a full stop and the body. A receiver should refuse old timestamps.

use std::time::{Duration, Instant};

use hapa_metrics::Exporter;
use hapa_metrics::alerts::{AlertEvent, Alerts, Thresholds};
use hmac::{Hmac, Mac};
use serde_json::json;
use sha2::Sha256;
use tokio::sync::mpsc;

use crate::error::ServerError;
use crate::state::{AppState, unix_seconds};

/// When the server alerts, and whom.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertOptions {
    /// Conditions.
    pub thresholds: Thresholds,
    /// How often they are looked at; zero turns alerts off.
    pub interval: Duration,
    /// Where alerts are sent, beside the log.
    pub webhook: Option<Webhook>,
}

impl Default for AlertOptions {
    /// The shipped thresholds, looked at each 15 seconds, to the log only.
    fn default() -> Self {
        Self { thresholds: Thresholds::default(), interval: Duration::from_secs(15), webhook: None }
    }
}

/// A receiver of alerts.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// An `http` or `https` address.
    pub url: String,
    /// The key of the signature; without one messages are not signed.
    pub secret: Option<String>,
    /// Tries of one message; the wait between them doubles from one second.
    pub tries: u32,
    /// Most messages in an hour; further ones are only logged.
    pub most_per_hour: usize,
}

impl std::fmt::Debug for Webhook {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook")
            .field("url", &self.url)
            .field("signed", &self.secret.is_some())
            .finish_non_exhaustive()
    }
}

impl Webhook {
    /// A receiver that gets four tries of a message, and 60 messages an hour.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), secret: None, tries: 4, most_per_hour: 60 }
    }

    pub(crate) fn check(&self) -> Result<(), ServerError> {
        if self.url.starts_with("http://") || self.url.starts_with("https://") {
            return Ok(());
        }
        let problem = format!("is `{}`; an http or https address is needed", self.url);
        Err(ServerError::BadOption { option: "alerts.webhook", problem })
    }
}

/// Watches until it is dropped with the server's task, anew whenever the settings change.
pub(crate) async fn follow(state: AppState, instance: String) {
    let mut settings = state.follow_options();
    loop {
        let alerts = settings.borrow_and_update().alerts.clone();
        tokio::select! {
            () = watch(alerts.clone(), state.exporter().clone(), instance.clone()) => {}
            gone = settings.wait_for(|options| options.alerts != alerts) => match gone {
                Ok(_) => continue,
                Err(_) => return,
            },
        }
        // Alerts are off.
        if settings.wait_for(|options| options.alerts != alerts).await.is_err() {
            return;
        }
    }
}

async fn watch(options: AlertOptions, exporter: Exporter, instance: String) {
    if options.interval.is_zero() {
        return;
    }
    let (messages, queue) = mpsc::channel(64);
    let sending = options.webhook.map(|webhook| tokio::spawn(send_all(webhook, queue)));
    let mut alerts = Alerts::new(options.thresholds);
    let mut ticks = tokio::time::interval(options.interval);
    loop {
        ticks.tick().await;
        for event in alerts.evaluate(&exporter.snapshot(), Instant::now()) {
            if event.firing {
                tracing::warn!(target: "hapa::alert", alert = event.kind.as_str(), "[ALERT] {event}");
            } else {
                tracing::info!(target: "hapa::alert", alert = event.kind.as_str(), "[RESOLVED] {event}");
            }
            // A receiver that is this far behind has been sent enough.
            if sending.is_some() && messages.try_send(body(&event, &instance)).is_err() {
                tracing::warn!(target: "hapa::alert", "the webhook's queue is full; this alert is only logged");
            }
        }
    }
}

fn body(event: &AlertEvent, instance: &str) -> String {
    json!({
        "alert": event.kind.as_str(),
        "firing": event.firing,
        "message": event.to_string(),
        "value": event.value,
        "threshold": event.threshold,
        "timestamp": unix_seconds(),
        "instance": instance,
    })
    .to_string()
}

async fn send_all(webhook: Webhook, mut queue: mpsc::Receiver<String>) {
    let mut sent: Vec<Instant> = Vec::new();
    while let Some(body) = queue.recv().await {
        sent.retain(|at| at.elapsed() < Duration::from_secs(3600));
        if sent.len() >= webhook.most_per_hour {
            tracing::warn!(target: "hapa::alert", "the webhook had {} messages in an hour; this alert is only logged", sent.len());
            continue;
        }
        sent.push(Instant::now());
        let mut wait = Duration::from_secs(1);
        for attempt in 1..=webhook.tries.max(1) {
            let (to, text) = (webhook.clone(), body.clone());
            let outcome = tokio::task::spawn_blocking(move || post(&to, &text)).await;
            let problem = match outcome {
                Ok(Ok(())) => break,
                Ok(Err(problem)) => problem,
                Err(error) => error.to_string(),
            };
            tracing::warn!(target: "hapa::alert", attempt, "sending an alert to {}: {problem}", webhook.url);
            if attempt < webhook.tries {
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
        }
    }
}

fn post(webhook: &Webhook, body: &str) -> Result<(), String> {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(10))).build().into();
    let timestamp = unix_seconds().to_string();
    let mut request = agent
        .post(&webhook.url)
        .header("content-type", "application/json")
        .header("x-hapa-timestamp", &timestamp);
    if let Some(secret) = &webhook.secret {
        request = request.header("x-hapa-signature", signature(secret, &timestamp, body));
    }
    request.send(body).map(drop).map_err(|error| error.to_string())
}

/// `sha256=` and the HMAC of `timestamp.body`.
fn signature(secret: &str, timestamp: &str, body: &str) -> String {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else {
        return String::new();
    };
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    let digest = mac.finalize().into_bytes();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_hmac_sha256_of_time_and_body() {
        // Computed with Python's hmac module: hmac.new(b"key", b"1700000000.{}", "sha256").
        let expected = "sha256=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae";
        assert_eq!(signature("key", "1700000000", "{}"), expected);
        assert_ne!(signature("other", "1700000000", "{}"), expected);
    }
}
