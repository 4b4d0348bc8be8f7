//! Metrics that follow from other metrics.

use crate::{
    labels::{LabelValue, Tier},
    names,
    registry::{Registry, Samples, label_text},
};

/// `cache_hit_rate` and the recorder's own figures.
pub(crate) fn collect(registry: &Registry, samples: &mut Samples) {
    samples.gauge(&names::CACHE_HIT_RATE, (), hit_rate_percent(registry));
    #[expect(clippy::cast_precision_loss, reason = "both stay far below 2^53")]
    {
        samples.gauge(&names::METRICS_SERIES, (), registry.series() as f64);
        samples.counter(&names::METRICS_OVERFLOW_TOTAL, (), registry.overflow() as f64);
    }
}

/// Every lookup asks the first tier, so hits plus misses of that tier is the number of lookups;
/// any tier may answer. 0 before the first lookup.
fn hit_rate_percent(registry: &Registry) -> f64 {
    let first = metrics::Label::new(Tier::SPEC.key, Tier::L1.value());
    let first = label_text(std::iter::once(&first), None);
    let hits = names::CACHE_HITS_TOTAL.name();
    let answered = registry.counter_sum(hits, |_| true);
    let lookups = registry.counter_sum(hits, |labels| labels == first)
        + registry.counter_sum(names::CACHE_MISSES_TOTAL.name(), |labels| labels == first);
    if lookups == 0 {
        return 0.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "both stay far below 2^53")]
    let rate = 100.0 * answered as f64 / lookups as f64;
    // The counters are read one after another while requests run.
    rate.min(100.0)
}
