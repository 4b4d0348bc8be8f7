//! `docs/metrics.md`, written from the table.

use std::fmt::Write as _;

use crate::{
    names::ALL,
    spec::{Kind, MetricSpec, Values},
};

/// The page, in Markdown. `tests/docs.rs` compares it with the file in `docs/`.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         <!-- Generated from crates/hapa-metrics/src/names.rs. To update:\n     \
         HAPA_BLESS=1 cargo test -p hapa-metrics --test docs -->\n\n\
         `GET /metrics` answers in Prometheus text 0.0.4, or in OpenMetrics 1.0 (with request ids as \
         exemplars on histograms) when the scrape accepts `application/openmetrics-text`. Series \
         are sorted by name, then by labels.\n\n\
         Label values are closed sets or bounded; a name holds at most 1,000 series, and what is \
         beyond goes to a series whose labels are `other` (counted by \
         `hapa_metrics_overflow_total`).\n\n\
         | name | kind | unit | labels | meaning |\n| --- | --- | --- | --- | --- |\n",
    );
    for spec in ALL {
        let labels: Vec<_> = spec.labels.iter().map(|label| format!("`{}`", label.key)).collect();
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} | {} |",
            spec.name,
            spec.kind.as_str(),
            spec.unit.as_str(),
            labels.join(", "),
            spec.help
        );
    }
    page.push_str("\n## Label values\n\n| label | values |\n| --- | --- |\n");
    let mut seen = Vec::new();
    for label in ALL.iter().flat_map(|spec| spec.labels) {
        if seen.contains(&label.key) {
            continue;
        }
        seen.push(label.key);
        let values = match label.values {
            Values::OneOf(values) => {
                let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
                values.join(", ")
            }
            Values::Bounded(text) => text.to_owned(),
        };
        let _ = writeln!(page, "| `{}` | {values} |", label.key);
    }
    page.push_str(
        "\n## Buckets\n\nUpper bounds in seconds, inclusive; each histogram has `+Inf` beside \
         them.\n\n| name | bounds |\n| --- | --- |\n",
    );
    let histograms = |spec: &&MetricSpec| spec.kind == Kind::Histogram;
    for spec in ALL.iter().filter(histograms) {
        let bounds: Vec<_> = spec.buckets.iter().map(f64::to_string).collect();
        let _ = writeln!(page, "| `{}` | {} |", spec.name, bounds.join(", "));
    }
    page
}
