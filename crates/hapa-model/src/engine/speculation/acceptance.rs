//! How often drafted tokens turn out right, learned from those that were verified.

use super::index::LONGEST_MATCH;

/// Where a draft comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The prompt and the answer so far.
    Own,
    /// Another answer of the namespace.
    Recent,
    /// Around the place where the last draft went wrong.
    Aligned,
}

const SOURCES: usize = 3;

/// Upper ends of the classes of match lengths.
const LENGTHS: [usize; 10] = [0, 1, 2, 3, 4, 6, 9, 15, 31, LONGEST_MATCH];

/// What is assumed of each class before anything was seen.
const ASSUMED: [f32; LENGTHS.len()] = [0.3, 0.4, 0.45, 0.55, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95];

/// So many observations are as good as what was believed before.
const PRIOR: f32 = 4.0;

/// Observations that count; older ones fade.
const MEMORY: f32 = 64.0;

/// Observed tokens of each class.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    tokens: f32,
    accepted: f32,
}

impl Seen {
    /// The share that was accepted, starting from what is believed.
    fn rate(self, believed: f32) -> f32 {
        (self.accepted + PRIOR * believed) / (self.tokens + PRIOR)
    }
}

/// The probability that a drafted token is the model's own choice, by the source of the draft and by how many tokens
/// before it agree.
#[derive(Debug, Clone, Default)]
pub(super) struct Acceptance {
    seen: [[Seen; LENGTHS.len()]; SOURCES],
}

fn class(length: usize) -> usize {
    LENGTHS.iter().position(|&most| length <= most).unwrap_or(LENGTHS.len() - 1)
}

impl Acceptance {
    /// Notes what became of a token that was drafted after `length` tokens that agree.
    pub(super) fn observe(&mut self, source: Source, length: usize, accepted: bool) {
        let seen = &mut self.seen[source as usize][class(length)];
        let fade = if seen.tokens >= MEMORY { 1.0 - 1.0 / MEMORY } else { 1.0 };
        seen.tokens = seen.tokens * fade + 1.0;
        seen.accepted = seen.accepted * fade + f32::from(accepted);
    }

    /// The estimate for a sequence with observations of its own, out of those of all sequences.
    pub(super) fn estimate(&self, all: &Self, source: Source, length: usize) -> f32 {
        let class = class(length);
        let believed = all.seen[source as usize][class].rate(ASSUMED[class]);
        self.seen[source as usize][class].rate(believed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_begins_with_what_all_have_seen_and_goes_its_own_way() {
        let (mut all, mut own) = (Acceptance::default(), Acceptance::default());
        let estimate = |own: &Acceptance, all: &Acceptance| own.estimate(all, Source::Own, 3);
        assert!((estimate(&own, &all) - 0.55).abs() < 1e-6);
        for _ in 0..200 {
            all.observe(Source::Own, 3, true);
        }
        assert!(estimate(&own, &all) > 0.95);
        for _ in 0..20 {
            own.observe(Source::Own, 3, false);
        }
        assert!(estimate(&own, &all) < 0.2);
        assert!(own.estimate(&all, Source::Recent, 3) > 0.5, "classes are apart");
        for _ in 0..300 {
            own.observe(Source::Own, 3, true);
        }
        assert!(estimate(&own, &all) > 0.9, "the past fades");
    }

    #[test]
    fn every_length_has_a_class() {
        for length in 0..=2 * LONGEST_MATCH {
            let rate = Acceptance::default().estimate(&Acceptance::default(), Source::Own, length);
            assert!((0.0..=1.0).contains(&rate));
        }
    }
}
