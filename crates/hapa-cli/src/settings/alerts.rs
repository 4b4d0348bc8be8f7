//! `[alerts]`: when `hapa serve` alerts, and whom.

use std::time::Duration;

use hapa_server::{AlertOptions, Webhook};
use serde::{Deserialize, Serialize};

use super::values::{self, Period};
use crate::error::{CliError, Result};
use crate::session::expand_home;

/// A threshold of 0 is never crossed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AlertSettings {
    #[serde(with = "values::text")]
    pub(crate) interval: Period,
    #[serde(with = "values::text")]
    pub(crate) hold: Period,
    pub(crate) first_token_seconds: f64,
    pub(crate) error_ratio: f64,
    pub(crate) waiting: usize,
    pub(crate) kv_usage_ratio: f64,
    pub(crate) memory_ratio: f64,
    pub(crate) model_failed: bool,
    pub(crate) breaker_open: bool,
    pub(crate) webhook: String,
    pub(crate) webhook_secret_file: String,
}

impl Default for AlertSettings {
    fn default() -> Self {
        let AlertOptions { thresholds, interval, .. } = AlertOptions::default();
        Self {
            interval: Period::of(interval),
            hold: Period::of(thresholds.hold),
            first_token_seconds: thresholds.first_token_p95.map_or(0.0, |time| time.as_secs_f64()),
            error_ratio: thresholds.error_ratio.unwrap_or(0.0),
            waiting: thresholds.waiting.unwrap_or(0.0) as usize,
            kv_usage_ratio: thresholds.kv_usage_ratio.unwrap_or(0.0),
            memory_ratio: thresholds.memory_ratio.unwrap_or(0.0),
            model_failed: thresholds.model_failed,
            breaker_open: thresholds.breaker_open,
            webhook: String::new(),
            webhook_secret_file: String::new(),
        }
    }
}

impl AlertSettings {
    /// The server's options.
    ///
    /// # Errors
    /// [`CliError::Usage`] for a threshold that is none, [`CliError::Io`] for a secret that cannot be read.
    pub(crate) fn options(&self) -> Result<AlertOptions> {
        let mut options = AlertOptions {
            interval: self.interval.duration().unwrap_or(Duration::ZERO),
            ..AlertOptions::default()
        };
        let thresholds = &mut options.thresholds;
        thresholds.hold = self.hold.duration().unwrap_or(Duration::MAX);
        thresholds.first_token_p95 = match self.first_token_seconds {
            0.0 => None,
            seconds => Some(Duration::try_from_secs_f64(seconds).map_err(|_| {
                CliError::usage(format!(
                    "the setting alerts.first_token_seconds is {seconds}; seconds, or 0 for no alert, are needed"
                ))
            })?),
        };
        thresholds.waiting = (self.waiting > 0).then_some(self.waiting as f64);
        thresholds.error_ratio = ratio("error_ratio", self.error_ratio)?;
        thresholds.kv_usage_ratio = ratio("kv_usage_ratio", self.kv_usage_ratio)?;
        thresholds.memory_ratio = ratio("memory_ratio", self.memory_ratio)?;
        thresholds.model_failed = self.model_failed;
        thresholds.breaker_open = self.breaker_open;
        if !self.webhook.is_empty() {
            let mut webhook = Webhook::new(&self.webhook);
            webhook.secret = self.secret()?;
            options.webhook = Some(webhook);
        }
        Ok(options)
    }

    fn secret(&self) -> Result<Option<String>> {
        if self.webhook_secret_file.is_empty() {
            return Ok(None);
        }
        let path = expand_home(&self.webhook_secret_file);
        let secret = crate::input::file(&path)?.trim().to_owned();
        if secret.is_empty() {
            return Err(CliError::usage(format!(
                "the setting alerts.webhook_secret_file: {} is empty",
                path.display()
            )));
        }
        Ok(Some(secret))
    }
}

/// A part of 1; 0 is no threshold.
fn ratio(name: &str, value: f64) -> Result<Option<f64>> {
    if !(0.0..=1.0).contains(&value) {
        return Err(CliError::usage(format!(
            "the setting alerts.{name} is {value}; a part of 1, such as 0.05, or 0 for no alert, is needed"
        )));
    }
    Ok((value > 0.0).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_servers() {
        let (made, shipped) =
            (AlertSettings::default().options().unwrap(), AlertOptions::default());
        assert_eq!(made.thresholds, shipped.thresholds);
        assert_eq!(made.interval, shipped.interval);
        assert!(made.webhook.is_none());
    }

    #[test]
    fn thresholds_of_zero_are_never_crossed_and_false_ones_are_refused() {
        let off = AlertSettings {
            first_token_seconds: 0.0,
            error_ratio: 0.0,
            waiting: 0,
            kv_usage_ratio: 0.0,
            memory_ratio: 0.0,
            ..AlertSettings::default()
        };
        let off = off.options().unwrap().thresholds;
        assert_eq!((off.first_token_p95, off.error_ratio, off.waiting), (None, None, None));
        assert_eq!((off.kv_usage_ratio, off.memory_ratio), (None, None));
        let refused = |settings: AlertSettings| settings.options().unwrap_err().to_string();
        let percent = AlertSettings { error_ratio: 5.0, ..AlertSettings::default() };
        assert!(refused(percent).contains("alerts.error_ratio is 5"));
        let early = AlertSettings { first_token_seconds: -1.0, ..AlertSettings::default() };
        assert!(refused(early).contains("alerts.first_token_seconds"));
    }

    #[test]
    fn the_secret_of_the_webhook_is_in_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let settings = AlertSettings {
            webhook: "https://example.org/hook".to_owned(),
            webhook_secret_file: file.path().display().to_string(),
            ..AlertSettings::default()
        };
        assert!(settings.options().unwrap_err().to_string().contains("is empty"));
        std::fs::write(file.path(), "key\n").unwrap();
        let webhook = settings.options().unwrap().webhook.unwrap();
        assert_eq!(
            (webhook.url.as_str(), webhook.secret.as_deref()),
            ("https://example.org/hook", Some("key"))
        );
    }
}
