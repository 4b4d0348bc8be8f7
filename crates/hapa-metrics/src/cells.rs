//! The values behind the handles: atomics only, so recording takes no lock and loses nothing.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use metrics::{CounterFn, GaugeFn, HistogramFn};
use parking_lot::Mutex;

use crate::exemplar::{self, Exemplar};

/// A counter.
#[derive(Debug, Default)]
pub(crate) struct CounterCell(AtomicU64);

impl CounterCell {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl CounterFn for CounterCell {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }
}

/// A gauge: the bits of an `f64`.
#[derive(Debug, Default)]
pub(crate) struct GaugeCell(AtomicU64);

fn add_f64(bits: &AtomicU64, value: f64) {
    let mut old = bits.load(Ordering::Relaxed);
    loop {
        let new = (f64::from_bits(old) + value).to_bits();
        match bits.compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return,
            Err(seen) => old = seen,
        }
    }
}

impl GaugeCell {
    pub(crate) fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

impl GaugeFn for GaugeCell {
    fn increment(&self, value: f64) {
        add_f64(&self.0, value);
    }

    fn decrement(&self, value: f64) {
        add_f64(&self.0, -value);
    }

    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

/// A histogram with fixed upper bounds. Memory is fixed when it is made.
#[derive(Debug)]
pub(crate) struct HistogramCell {
    bounds: &'static [f64],
    /// One count for each bound and one for what is above all of them; not cumulative.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
    /// The newest exemplar of each bucket; made when the first one arrives.
    exemplars: OnceLock<Box<[Mutex<Option<Exemplar>>]>>,
}

/// What a histogram held at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HistogramView {
    pub(crate) bounds: &'static [f64],
    /// Not cumulative, one longer than `bounds`.
    pub(crate) counts: Vec<u64>,
    pub(crate) sum: f64,
}

impl HistogramCell {
    pub(crate) fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0), exemplars: OnceLock::new() }
    }

    pub(crate) fn view(&self) -> HistogramView {
        HistogramView {
            bounds: self.bounds,
            counts: self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            sum: f64::from_bits(self.sum.load(Ordering::Relaxed)),
        }
    }

    pub(crate) fn exemplar(&self, bucket: usize) -> Option<Exemplar> {
        self.exemplars.get()?.get(bucket)?.lock().clone()
    }

    fn add(&self, value: f64, count: u64) {
        // Nothing sensible can be said of a sum that is not a number.
        if value.is_nan() || count == 0 {
            return;
        }
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(count, Ordering::Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "sums are f64 in the format itself")]
        add_f64(&self.sum, value * count as f64);
        if let Some(request_id) = exemplar::current() {
            self.keep_exemplar(bucket, Exemplar::now(value, request_id));
        }
    }

    #[cold]
    fn keep_exemplar(&self, bucket: usize, exemplar: Exemplar) {
        let slots =
            self.exemplars.get_or_init(|| self.counts.iter().map(|_| Mutex::new(None)).collect());
        // An exemplar is a sample: when another thread writes one, this one may go.
        if let Some(mut slot) = slots[bucket].try_lock() {
            *slot = Some(exemplar);
        }
    }
}

impl HistogramFn for HistogramCell {
    fn record(&self, value: f64) {
        self.add(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        self.add(value, count as u64);
    }
}

/// One series.
#[derive(Debug, Clone)]
pub(crate) enum Cell {
    Counter(Arc<CounterCell>),
    Gauge(Arc<GaugeCell>),
    Histogram(Arc<HistogramCell>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let cell = HistogramCell::new(&[1.0, 2.0]);
        for value in [0.5, 1.0, 1.5, 2.0, 2.5, f64::INFINITY, f64::NAN] {
            cell.record(value);
        }
        cell.record_many(0.25, 3);
        assert_eq!(cell.view().counts, [5, 2, 2]);
    }

    #[test]
    fn gauges_and_counters_follow_the_facade() {
        let gauge = GaugeCell::default();
        gauge.set(2.0);
        gauge.increment(1.5);
        gauge.decrement(0.5);
        assert_eq!(gauge.get(), 3.0);
        let counter = CounterCell::default();
        counter.absolute(7);
        counter.absolute(5);
        counter.increment(1);
        assert_eq!(counter.get(), 8);
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        let cell = HistogramCell::new(crate::buckets::STAGE);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..50_000).for_each(|_| cell.record(0.25)));
            }
        });
        let view = cell.view();
        assert_eq!(view.counts.iter().sum::<u64>(), 200_000);
        assert_eq!(view.sum, 50_000.0);
    }
}
