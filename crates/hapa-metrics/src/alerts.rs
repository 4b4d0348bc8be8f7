//! Alerts inside of the process, for those who run no Prometheus: conditions on the metrics, held for a while.
//!
//! [`Alerts::evaluate`] compares two snapshots of an [`crate::Exporter`] and says what began and what ended; sending
//! that anywhere is the caller's.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use hapa_metrics::{Exporter, alerts::{Alerts, Thresholds}, names};
//!
//! let exporter = Exporter::local();
//! let mut alerts = Alerts::new(Thresholds { hold: Duration::ZERO, ..Thresholds::default() });
//! let now = Instant::now();
//! alerts.evaluate(&exporter.snapshot(), now);
//! exporter.run(|| names::REQUESTS_WAITING.handle().set(100.0));
//! let events = alerts.evaluate(&exporter.snapshot(), now + Duration::from_secs(15));
//! assert!(events[0].firing && events[0].to_string().contains("100"), "{}", events[0]);
//! ```

use std::{
    fmt,
    time::{Duration, Instant},
};

use crate::registry::{Series, SeriesValue};

/// When alerts begin. A threshold of `None` is never crossed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// How long a condition must hold before its alert begins, and be gone before it ends.
    pub hold: Duration,
    /// 95% of first tokens came later than this.
    pub first_token_p95: Option<Duration>,
    /// More than this part of responses were 5xx, 0 to 1.
    pub error_ratio: Option<f64>,
    /// More generations than this wait in the engine's queue.
    pub waiting: Option<f64>,
    /// More than this part of the key-value pages is held, 0 to 1.
    pub kv_usage_ratio: Option<f64>,
    /// The process holds more than this part of the memory that it may use, 0 to 1.
    pub memory_ratio: Option<f64>,
    /// The model could not be loaded.
    pub model_failed: bool,
    /// A cache tier is left out because it failed repeatedly.
    pub breaker_open: bool,
}

impl Default for Thresholds {
    /// Those of `deploy/prometheus/hapa.rules.yml`, as far as one process can tell.
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(60),
            first_token_p95: Some(Duration::from_millis(2_500)),
            error_ratio: Some(0.05),
            waiting: Some(8.0),
            kv_usage_ratio: Some(0.95),
            memory_ratio: Some(0.9),
            model_failed: true,
            breaker_open: true,
        }
    }
}

/// What an alert is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AlertKind {
    /// First tokens come late.
    SlowFirstToken,
    /// Responses fail.
    Errors,
    /// The queue is long.
    QueueLong,
    /// Key-value pages run out.
    KvCacheFull,
    /// Memory runs out.
    MemoryHigh,
    /// The model cannot be loaded.
    ModelLoadFailing,
    /// A cache tier is left out.
    CacheBreakerOpen,
}

impl AlertKind {
    const ALL: [Self; 7] = [
        Self::SlowFirstToken,
        Self::Errors,
        Self::QueueLong,
        Self::KvCacheFull,
        Self::MemoryHigh,
        Self::ModelLoadFailing,
        Self::CacheBreakerOpen,
    ];

    /// Its name in the log and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SlowFirstToken => "slow_first_token",
            Self::Errors => "errors",
            Self::QueueLong => "queue_long",
            Self::KvCacheFull => "kv_cache_full",
            Self::MemoryHigh => "memory_high",
            Self::ModelLoadFailing => "model_load_failing",
            Self::CacheBreakerOpen => "cache_breaker_open",
        }
    }
}

/// An alert that began or ended; `Display` is a sentence for the log.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AlertEvent {
    /// What it is about.
    pub kind: AlertKind,
    /// It began; else it ended.
    pub firing: bool,
    /// What was measured: seconds, a part of 1, or a count.
    pub value: f64,
    /// What it was held against, in the same unit.
    pub threshold: f64,
}

impl fmt::Display for AlertEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, firing, value, threshold } = *self;
        if !firing {
            return write!(f, "{} is over", kind.as_str());
        }
        let (value_percent, limit_percent) = (100.0 * value, 100.0 * threshold);
        match kind {
            AlertKind::SlowFirstToken => {
                write!(
                    f,
                    "95% of first tokens took up to {value:.2} s; the limit is {threshold:.2} s"
                )
            }
            AlertKind::Errors => {
                write!(
                    f,
                    "{value_percent:.1}% of responses were 5xx; the limit is {limit_percent:.1}%"
                )
            }
            AlertKind::QueueLong => {
                write!(f, "{value:.0} generations wait; the limit is {threshold:.0}")
            }
            AlertKind::KvCacheFull => write!(
                f,
                "{value_percent:.0}% of the key-value cache is held; the limit is {limit_percent:.0}%"
            ),
            AlertKind::MemoryHigh => write!(
                f,
                "the process holds {value_percent:.0}% of its memory; the limit is {limit_percent:.0}%"
            ),
            AlertKind::ModelLoadFailing => write!(f, "the model could not be loaded"),
            AlertKind::CacheBreakerOpen => {
                write!(f, "a cache tier is left out after repeated failures")
            }
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    firing: bool,
    /// Since when the condition has been the opposite of `firing`.
    turned: Option<Instant>,
}

/// The alerts of one process.
#[derive(Debug)]
pub struct Alerts {
    thresholds: Thresholds,
    before: Vec<Series>,
    states: [State; AlertKind::ALL.len()],
}

impl Alerts {
    /// None fires yet.
    pub fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, before: Vec::new(), states: Default::default() }
    }

    /// Looks at a snapshot taken `now`; rates are of the time since the former one, so the first call only begins.
    pub fn evaluate(&mut self, snapshot: &[Series], now: Instant) -> Vec<AlertEvent> {
        let mut events = Vec::new();
        for (state, kind) in self.states.iter_mut().zip(AlertKind::ALL) {
            let Some((value, threshold)) = measure(kind, &self.thresholds, &self.before, snapshot)
            else {
                continue;
            };
            if (value > threshold) == state.firing {
                state.turned = None;
                continue;
            }
            let turned = *state.turned.get_or_insert(now);
            if now.saturating_duration_since(turned) >= self.thresholds.hold {
                *state = State { firing: !state.firing, turned: None };
                events.push(AlertEvent { kind, firing: state.firing, value, threshold });
            }
        }
        self.before = snapshot.to_vec();
        events
    }
}

/// What a kind looks at, and its threshold; `None` when it is off.
fn measure(
    kind: AlertKind,
    thresholds: &Thresholds,
    before: &[Series],
    after: &[Series],
) -> Option<(f64, f64)> {
    let gauge = |name: &str, labels: &str| {
        let series =
            after.iter().filter(|series| series.name == name && series.labels.contains(labels));
        series.map(|series| series.value.number()).fold(0.0, f64::max)
    };
    let flag = |on: bool, value: f64| on.then_some((value, 0.5));
    match kind {
        AlertKind::SlowFirstToken => {
            let limit = thresholds.first_token_p95?;
            let p95 = first_token_p95(before, after).unwrap_or(0.0);
            Some((p95, limit.as_secs_f64()))
        }
        AlertKind::Errors => Some((error_ratio(before, after), thresholds.error_ratio?)),
        AlertKind::QueueLong => Some((gauge("hapa_requests_waiting", ""), thresholds.waiting?)),
        AlertKind::KvCacheFull => {
            Some((gauge("hapa_kv_cache_usage_ratio", ""), thresholds.kv_usage_ratio?))
        }
        AlertKind::MemoryHigh => {
            Some((gauge("hapa_process_memory_ratio", ""), thresholds.memory_ratio?))
        }
        AlertKind::ModelLoadFailing => {
            flag(thresholds.model_failed, gauge("hapa_model_state", "state=\"failed\""))
        }
        AlertKind::CacheBreakerOpen => {
            flag(thresholds.breaker_open, gauge("hapa_cache_breaker_open", ""))
        }
    }
}

fn first_token_p95(before: &[Series], after: &[Series]) -> Option<f64> {
    let find = |all: &[Series]| {
        all.iter().find(|series| series.name == "hapa_time_to_first_token_seconds").cloned()
    };
    let mut now = find(after)?;
    if let (
        SeriesValue::Histogram { counts, .. },
        Some(Series { value: SeriesValue::Histogram { counts: former, .. }, .. }),
    ) = (&mut now.value, find(before))
    {
        for (count, former) in counts.iter_mut().zip(former) {
            *count = count.saturating_sub(former);
        }
    }
    now.value.quantile(0.95)
}

fn error_ratio(before: &[Series], after: &[Series]) -> f64 {
    let sum = |all: &[Series], labels: &str| -> f64 {
        let series = all
            .iter()
            .filter(|series| series.name == "api_requests_total" && series.labels.contains(labels));
        series.map(|series| series.value.number()).sum()
    };
    let grown = |labels| sum(after, labels) - sum(before, labels);
    let all = grown("");
    if all > 0.0 { grown("status=\"5") / all } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Exporter,
        labels::{Endpoint, Method, Model, ModelState, Status},
        names,
    };

    fn second(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn an_alert_begins_after_a_while_and_ends_after_a_while() {
        let exporter = Exporter::local();
        let mut alerts = Alerts::new(Thresholds { hold: second(30), ..Thresholds::default() });
        let start = Instant::now();
        let mut at = |seconds: u64, waiting: f64| {
            exporter.run(|| names::REQUESTS_WAITING.handle().set(waiting));
            alerts.evaluate(&exporter.snapshot(), start + second(seconds))
        };
        assert!(at(0, 1.0).is_empty());
        assert!(at(15, 20.0).is_empty(), "not long enough");
        assert!(at(30, 2.0).is_empty(), "and gone again");
        assert!(at(45, 20.0).is_empty());
        let begun = at(75, 21.0);
        assert_eq!(
            begun,
            [AlertEvent { kind: AlertKind::QueueLong, firing: true, value: 21.0, threshold: 8.0 }]
        );
        assert!(at(90, 22.0).is_empty(), "said once");
        assert!(at(105, 3.0).is_empty());
        let over = at(140, 3.0);
        assert_eq!(over.len(), 1);
        assert_eq!(over[0].to_string(), "queue_long is over");
    }

    #[test]
    fn rates_are_of_the_time_since_the_last_look() {
        let exporter = Exporter::local();
        let mut alerts = Alerts::new(Thresholds { hold: Duration::ZERO, ..Thresholds::default() });
        let now = Instant::now();
        let answered = |status: u16, count: u64| {
            let labels = (Method::Post, Endpoint::UNMATCHED, Status(status));
            exporter.run(|| names::API_REQUESTS_TOTAL.with(labels).increment(count));
        };
        let slow = |seconds: f64| {
            exporter.run(|| names::TIME_TO_FIRST_TOKEN_SECONDS.handle().record(seconds));
        };
        // All that was before the first look is history.
        answered(200, 1_000);
        slow(0.01);
        alerts.evaluate(&exporter.snapshot(), now);
        answered(200, 90);
        answered(503, 10);
        slow(9.0);
        let kinds = |events: &[AlertEvent]| {
            events.iter().map(|event| (event.kind, event.firing)).collect::<Vec<_>>()
        };
        let events = alerts.evaluate(&exporter.snapshot(), now + second(1));
        assert_eq!(kinds(&events), [(AlertKind::SlowFirstToken, true), (AlertKind::Errors, true)]);
        assert!((events[1].value - 0.1).abs() < 1e-9);
        // A quiet time is no fault.
        let events = alerts.evaluate(&exporter.snapshot(), now + second(2));
        assert_eq!(
            kinds(&events),
            [(AlertKind::SlowFirstToken, false), (AlertKind::Errors, false)]
        );
    }

    #[test]
    fn states_are_alerts_and_thresholds_can_be_off() {
        let exporter = Exporter::local();
        let hold = Duration::ZERO;
        let mut on = Alerts::new(Thresholds { hold, ..Thresholds::default() });
        let mut off =
            Alerts::new(Thresholds { hold, model_failed: false, ..Thresholds::default() });
        exporter.run(|| {
            let failed = |name| (Model::new(name), ModelState::Failed);
            names::MODEL_STATE.with(failed("good")).set(0.0);
            names::MODEL_STATE.with(failed("bad")).set(1.0);
        });
        let now = Instant::now();
        let events = on.evaluate(&exporter.snapshot(), now);
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].kind.as_str(), "model_load_failing");
        assert!(off.evaluate(&exporter.snapshot(), now).is_empty());
    }
}
