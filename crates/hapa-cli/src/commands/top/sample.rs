//! One look at a server: its metrics, and its statistics.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A server, and how to ask it.
pub(super) struct Source {
    url: String,
    key: Option<String>,
    agent: ureq::Agent,
}

/// What a server said at one moment.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) metrics: Metrics,
    /// The body of `/stats`.
    pub(super) stats: Value,
}

/// Series by name and label text.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Metrics(BTreeMap<String, BTreeMap<String, f64>>);

impl Source {
    pub(super) fn new(url: &str, key: Option<&str>, interval: Duration) -> Self {
        let url = url.trim_end_matches('/');
        let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let timeout = interval.max(Duration::from_secs(2));
        let agent = ureq::Agent::config_builder().timeout_global(Some(timeout)).build().into();
        Self { url, key: key.map(str::to_owned), agent }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Looks now; the error says what was asked and what to do.
    pub(super) fn sample(&self) -> Result<Sample, String> {
        let metrics = Metrics::parse(&self.get("/metrics")?);
        let stats = self.get("/stats")?;
        let stats = serde_json::from_str(&stats).map_err(|error| {
            format!("{}/stats is no JSON ({error}); is it a HAPA server?", self.url)
        })?;
        Ok(Sample { at: Instant::now(), metrics, stats })
    }

    fn get(&self, path: &str) -> Result<String, String> {
        let mut request = self.agent.get(format!("{}{path}", self.url));
        if let Some(key) = &self.key {
            request = request.header("x-api-key", key);
        }
        let said = request.call().and_then(|mut response| response.body_mut().read_to_string());
        said.map_err(|error| {
            format!("no answer from {}{path}: {error}; `hapa serve` starts a server, --url names another", self.url)
        })
    }
}

impl Metrics {
    /// Reads Prometheus' text format; lines that are none are left out.
    pub(super) fn parse(text: &str) -> Self {
        let mut metrics = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.replace("Inf", "inf").parse() else { continue };
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, labels.trim_end_matches('}')),
                None => (series, ""),
            };
            metrics.0.entry(name.to_owned()).or_default().insert(labels.to_owned(), value);
        }
        metrics
    }

    /// Sum of the series of a name whose labels hold all of `with`.
    pub(super) fn sum(&self, name: &str, with: &str) -> f64 {
        let series = self.0.get(name).into_iter().flatten();
        series.filter(|(labels, _)| labels.contains(with)).map(|(_, value)| value).sum()
    }

    /// Series of a name: one label's value, and the series'.
    pub(super) fn by_label(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        self.by_label_of(name, label, "")
    }

    /// As [`Self::by_label`], of the series whose labels hold all of `with`.
    fn by_label_of(&self, name: &str, label: &str, with: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        let key = format!("{label}=\"");
        let series = self.0.get(name).into_iter().flatten();
        for (labels, value) in series.filter(|(labels, _)| labels.contains(with)) {
            let Some(rest) = labels.split(&key).nth(1) else { continue };
            let Some(found) = rest.split('"').next() else { continue };
            *sums.entry(found.to_owned()).or_insert(0.0) += value;
        }
        sums
    }

    /// Cumulative counts of a histogram by upper bound, its series whose labels hold all of `with` together.
    pub(super) fn buckets(&self, name: &str, with: &str) -> Vec<(f64, f64)> {
        let by_bound = self.by_label_of(&format!("{name}_bucket"), "le", with);
        let bound =
            |text: &str| if text == "+Inf" { f64::INFINITY } else { text.parse().unwrap_or(0.0) };
        let mut buckets: Vec<(f64, f64)> =
            by_bound.iter().map(|(le, count)| (bound(le), *count)).collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        buckets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_text_is_read() {
        let text = "# HELP a help\n# TYPE a counter\na{tier=\"l1\",x=\"y\"} 3\na{tier=\"l2\"} 4\nb 1.5e3\n\
                    h_bucket{le=\"0.5\"} 2\nh_bucket{le=\"+Inf\"} 5\nbroken\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.sum("a", ""), 7.0);
        assert_eq!(metrics.sum("a", "tier=\"l1\""), 3.0);
        assert_eq!(metrics.sum("b", ""), 1500.0);
        assert_eq!(metrics.sum("missing", ""), 0.0);
        assert_eq!(
            metrics.by_label("a", "tier"),
            BTreeMap::from([("l1".to_owned(), 3.0), ("l2".to_owned(), 4.0)])
        );
        assert_eq!(metrics.buckets("h", ""), [(0.5, 2.0), (f64::INFINITY, 5.0)]);
    }
}
