//! A bounded, even choice of single requests, for plots and for resampling.

use serde::{Deserialize, Serialize};

use crate::client::{CacheOutcome, Class};

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When it was meant to be sent, in seconds since the start.
    pub at: f32,
    /// Seconds to the end of the answer.
    pub end_to_end: f32,
    /// Seconds to the first piece of text of a streamed answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_to_first_token: Option<f32>,
    /// Seconds a token after the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_per_output_token: Option<f32>,
    /// How it ended.
    pub class: Class,
    /// What the server's cache did.
    pub cache: CacheOutcome,
}

/// Algorithm R (Vitter, 1985): each of all samples so far is kept with the same probability.
#[derive(Debug, Clone)]
pub(crate) struct Reservoir {
    samples: Vec<Sample>,
    capacity: usize,
    seen: u64,
    state: u64,
}

impl Reservoir {
    pub(crate) fn new(capacity: usize) -> Self {
        // All at once: growing in the middle of a run would stall it.
        Self { samples: Vec::with_capacity(capacity), capacity, seen: 0, state: 0x9e37_79b9 }
    }

    pub(crate) fn push(&mut self, sample: Sample) {
        self.seen += 1;
        if self.samples.len() < self.capacity {
            self.samples.push(sample);
            return;
        }
        let place = (u128::from(self.random()) * u128::from(self.seen)) >> 64;
        if let Some(slot) = usize::try_from(place).ok().and_then(|at| self.samples.get_mut(at)) {
            *slot = sample;
        }
    }

    /// Joins two choices; they are taken to stand for equally many requests each, as those of workers do.
    pub(crate) fn add(&mut self, other: &Self) {
        self.samples.extend_from_slice(&other.samples);
        self.seen += other.seen;
    }

    /// At most `count` of them, in the order of time.
    pub(crate) fn choose(&self, count: usize) -> Vec<Sample> {
        let step = self.samples.len().div_ceil(count.max(1)).max(1);
        let mut chosen: Vec<Sample> = self.samples.iter().step_by(step).copied().collect();
        chosen.sort_by(|a, b| a.at.total_cmp(&b.at));
        chosen
    }

    /// SplitMix64 (Steele et al., 2014).
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_is_even() {
        let mut reservoir = Reservoir::new(1000);
        for number in 0..20_000u16 {
            reservoir.push(Sample {
                at: f32::from(number),
                end_to_end: 1.0,
                time_to_first_token: None,
                time_per_output_token: None,
                class: Class::Success,
                cache: CacheOutcome::None,
            });
        }
        let chosen = reservoir.choose(1000);
        assert_eq!(chosen.len(), 1000);
        let mean = chosen.iter().map(|sample| f64::from(sample.at)).sum::<f64>() / 1000.0;
        // The standard error of the mean is 183.
        assert!((mean - 10_000.0).abs() < 900.0, "{mean}");
        assert_eq!(reservoir.choose(100).len(), 100);
    }
}
