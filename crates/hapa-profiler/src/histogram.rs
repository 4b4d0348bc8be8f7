//! A histogram of nanoseconds with bounded error and fixed memory, the layout of HdrHistogram:
//! 32 linear steps in each power of two, so a value is known to within 3.2%.
//!
//! A thread's own histogram has one writer: adding is a plain load and store. Where threads share
//! one, `add_shared` takes real atomic additions. Never both on the same histogram.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const STEP_BITS: u32 = 5;
const STEPS: usize = 1 << STEP_BITS;
/// Values from here on (78 hours) share the last bucket.
const MAX_BITS: u32 = 48;
pub(crate) const BUCKETS: usize = STEPS + (MAX_BITS - STEP_BITS) as usize * STEPS;

/// The bucket of a value.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "bounded by BUCKETS")]
pub(crate) fn bucket_of(nanos: u64) -> usize {
    if nanos < STEPS as u64 {
        return nanos as usize;
    }
    let octave = (63 - nanos.leading_zeros()).min(MAX_BITS);
    if octave >= MAX_BITS {
        return BUCKETS - 1;
    }
    let step = (nanos >> (octave - STEP_BITS)) as usize & (STEPS - 1);
    STEPS + (octave - STEP_BITS) as usize * STEPS + step
}

/// The smallest value of a bucket and the first value after it.
pub(crate) fn bounds_of(bucket: usize) -> (u64, u64) {
    if bucket < STEPS {
        return (bucket as u64, bucket as u64 + 1);
    }
    let (octave, step) = ((bucket - STEPS) / STEPS, (bucket - STEPS) % STEPS);
    let width = 1_u64 << octave;
    let low = ((STEPS + step) as u64) << octave;
    (low, low + width)
}

/// Written by one thread, read by any.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    max: AtomicU64,
    min: AtomicU64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self {
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            max: AtomicU64::new(0),
            min: AtomicU64::new(u64::MAX),
        }
    }

    /// Adds a value; only the owner may call it.
    #[inline]
    pub(crate) fn add(&self, nanos: u64) {
        let bucket = &self.buckets[bucket_of(nanos)];
        bucket.store(bucket.load(Relaxed) + 1, Relaxed);
        if nanos > self.max.load(Relaxed) {
            self.max.store(nanos, Relaxed);
        }
        if nanos < self.min.load(Relaxed) {
            self.min.store(nanos, Relaxed);
        }
    }
}

impl Histogram {
    /// Adds a value from any thread, for histograms without an owner.
    pub(crate) fn add_shared(&self, nanos: u64) {
        self.buckets[bucket_of(nanos)].fetch_add(1, Relaxed);
        self.max.fetch_max(nanos, Relaxed);
        self.min.fetch_min(nanos, Relaxed);
    }
}

/// Values of several histograms together.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Distribution {
    /// `(bucket, count)`, by bucket, without empty ones.
    pub(crate) counts: Vec<(u32, u64)>,
    pub(crate) min: Option<u64>,
    pub(crate) max: u64,
}

impl Distribution {
    pub(crate) fn merged<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> Self {
        let mut counts = vec![0_u64; BUCKETS];
        let (mut min, mut max) = (u64::MAX, 0);
        for histogram in histograms {
            for (sum, bucket) in counts.iter_mut().zip(&histogram.buckets) {
                *sum += bucket.load(Relaxed);
            }
            min = min.min(histogram.min.load(Relaxed));
            max = max.max(histogram.max.load(Relaxed));
        }
        #[expect(clippy::cast_possible_truncation, reason = "bucket numbers are below 2^16")]
        let counts: Vec<_> = counts
            .into_iter()
            .enumerate()
            .filter(|(_, count)| *count > 0)
            .map(|(bucket, count)| (bucket as u32, count))
            .collect();
        let min = (!counts.is_empty()).then_some(min.min(max));
        Self { counts, min, max }
    }

    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().map(|(_, count)| count).sum()
    }

    /// The value that a part `q` (0 to 1) of the values do not exceed: the middle of its bucket,
    /// within the smallest and largest value seen. 0 when there are none.
    pub(crate) fn quantile(&self, q: f64) -> u64 {
        let total = self.count();
        if total == 0 {
            return 0;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank between 1 and total"
        )]
        let rank = ((q * total as f64).ceil() as u64).clamp(1, total);
        let mut below = 0;
        for (bucket, count) in &self.counts {
            below += count;
            if below >= rank {
                let (low, high) = bounds_of(*bucket as usize);
                let middle = low + (high - 1 - low) / 2;
                return middle.clamp(self.min.unwrap_or(0), self.max);
            }
        }
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_narrow() {
        let mut next = 0;
        for bucket in 0..BUCKETS {
            let (low, high) = bounds_of(bucket);
            assert_eq!(low, next);
            assert_eq!(bucket_of(low), bucket);
            assert_eq!(bucket_of(high - 1), bucket);
            assert!((high - low) * 32 <= low.max(32), "bucket {bucket} is too wide");
            next = high;
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_within_the_promised_error() {
        let histogram = Histogram::new();
        let mut values: Vec<u64> = (0..10_000_u64).map(|n| n * n % 9_999_991 + 17).collect();
        values.iter().for_each(|value| histogram.add(*value));
        values.sort_unstable();
        let distribution = Distribution::merged(std::iter::once(&histogram));
        assert_eq!(distribution.count(), 10_000);
        for q in [0.01, 0.5, 0.9, 0.99, 0.999] {
            let exact = values[(q * 10_000.0) as usize - 1];
            let found = distribution.quantile(q);
            assert!(found.abs_diff(exact) * 32 <= exact, "{q}: {found} for {exact}");
        }
        assert_eq!(distribution.quantile(1.0).max(distribution.max), *values.last().unwrap());
        assert_eq!(distribution.min, Some(values[0]));
        assert_eq!(Distribution::default().quantile(0.5), 0);
    }
}
