//! Choosing the next token from logits.
//!
//! The order is llama.cpp's: repetition penalty, top-k, top-p, min-p, temperature, and then a draw. Top-p and min-p
//! thus look at the model's own probabilities, before the temperature flattens or sharpens them. Vocabularies have 150,000 tokens
//! and more, so nothing here sorts them all: greedy choice is one pass, top-k keeps a buffer of candidates above a rising bar, and
//! top-p without top-k takes as many of the best as it needs.

use std::cmp::Ordering;
use std::hash::{BuildHasher, Hasher, RandomState};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::{ModelError, Result};

/// How to choose tokens. The default is greedy.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingOptions {
    /// 0: always the most probable token. 1: the model's own probabilities; lower sharpens, higher
    /// flattens. At most 100.
    pub temperature: f32,
    /// Only the so many most probable tokens; 0 is all.
    pub top_k: usize,
    /// Only the most probable tokens that together reach this probability, above 0 to 1; 1 is all.
    pub top_p: f32,
    /// Only tokens at least so probable as this share of the most probable one, 0 to 1; 0 is all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens that occurred already, above 0 to 10;
    /// 1 is none.
    pub repetition_penalty: f32,
    /// How many of the last tokens the penalty looks at.
    pub repetition_window: usize,
    /// Makes draws repeatable.
    pub seed: Option<u64>,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_window: 64,
            seed: None,
        }
    }
}

impl SamplingOptions {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`ModelError::InvalidOption`] with the option, its value and the range.
    pub fn validate(&self) -> Result<()> {
        let check = |ok: bool, option, value: f32, expected| {
            if ok {
                Ok(())
            } else {
                Err(ModelError::InvalidOption { option, value: value.to_string(), expected })
            }
        };
        // Comparisons with NaN are false.
        let t = self.temperature;
        check((0.0..=100.0).contains(&t), "temperature", t, "a number from 0 to 100")?;
        let p = self.top_p;
        check(p > 0.0 && p <= 1.0, "top_p", p, "a number above 0 up to 1")?;
        let m = self.min_p;
        check((0.0..=1.0).contains(&m), "min_p", m, "a number from 0 to 1")?;
        let r = self.repetition_penalty;
        check(r > 0.0 && r <= 10.0, "repetition_penalty", r, "a number above 0 up to 10")
    }

    /// Whether the choice is always the most probable token.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }
}

/// A token and its logit.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    id: u32,
    logit: f32,
}

impl Candidate {
    /// Higher logits first, then lower ids. Logits here are no NaN.
    fn rank(&self, other: &Self) -> Ordering {
        other.logit.partial_cmp(&self.logit).unwrap_or(Ordering::Equal).then(self.id.cmp(&other.id))
    }
}

/// Chooses tokens for one sequence.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplingOptions,
    rng: ChaCha8Rng,
    /// Reused from call to call.
    candidates: Vec<Candidate>,
    recent: Vec<u32>,
}

impl Sampler {
    /// A sampler with these options.
    ///
    /// # Errors
    /// See [`SamplingOptions::validate`].
    pub fn new(options: SamplingOptions) -> Result<Self> {
        options.validate()?;
        // The standard library seeds each of its hashers' states from the system.
        let seed = options.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        Ok(Self {
            options,
            rng: ChaCha8Rng::seed_from_u64(seed),
            candidates: Vec::new(),
            recent: Vec::new(),
        })
    }

    /// The options.
    pub fn options(&self) -> &SamplingOptions {
        &self.options
    }

    /// Chooses the next token. `logits` has one entry a token of the vocabulary and is changed by the
    /// repetition penalty; `history` holds the tokens so far, prompt included.
    ///
    /// Logits that are NaN are never chosen; without any other the answer is token 0.
    pub fn sample(&mut self, logits: &mut [f32], history: &[u32]) -> u32 {
        self.penalise(logits, history);
        let best = argmax(logits);
        let max = logits.get(best as usize).copied().unwrap_or(f32::NAN);
        if self.options.is_greedy() || !max.is_finite() {
            return best;
        }
        self.select(logits, max);
        self.draw(max)
    }

    fn penalise(&mut self, logits: &mut [f32], history: &[u32]) {
        let penalty = self.options.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        let start = history.len().saturating_sub(self.options.repetition_window);
        self.recent.clear();
        self.recent.extend_from_slice(&history[start..]);
        self.recent.sort_unstable();
        self.recent.dedup();
        for &id in &self.recent {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    /// Fills `candidates` with what top-k, top-p and min-p leave.
    fn select(&mut self, logits: &[f32], max: f32) {
        let options = &self.options;
        // min-p keeps logits from here on; the best always passes.
        let bar = max + options.min_p.ln();
        let candidates = &mut self.candidates;
        if options.top_k > 0 {
            top(logits, options.top_k, candidates);
            let total = candidates.iter().map(|c| weight(c.logit, max)).sum();
            cut_top_p(candidates, options.top_p, max, total);
        } else if options.top_p < 1.0 {
            let total: f64 = logits.iter().filter(|l| !l.is_nan()).map(|&l| weight(l, max)).sum();
            let mut k = 64;
            loop {
                top(logits, k, candidates);
                if cut_top_p(candidates, options.top_p, max, total) || k >= logits.len() {
                    break;
                }
                k = k.saturating_mul(8);
            }
        } else {
            candidates.clear();
            candidates.extend(
                (0..)
                    .zip(logits)
                    .filter(|&(_, &logit)| logit >= bar)
                    .map(|(id, &logit)| Candidate { id, logit }),
            );
            return;
        }
        candidates.retain(|c| c.logit >= bar);
    }

    /// Draws one of the candidates by their probabilities at the temperature.
    fn draw(&mut self, max: f32) -> u32 {
        let scale = self.options.temperature.recip();
        let weight = |c: &Candidate| f64::from(((c.logit - max) * scale).exp());
        let total: f64 = self.candidates.iter().map(weight).sum();
        let mut rest = self.rng.random::<f64>() * total;
        let mut chosen = 0;
        for candidate in &self.candidates {
            let weight = weight(candidate);
            if weight > 0.0 {
                // Rounding may leave a little at the end: the last possible one is taken then.
                chosen = candidate.id;
                rest -= weight;
                if rest < 0.0 {
                    break;
                }
            }
        }
        chosen
    }
}

/// Probability of a logit, up to the common factor.
fn weight(logit: f32, max: f32) -> f64 {
    f64::from((logit - max).exp())
}

/// The first of the largest logits; 0 when all are NaN or there is none.
///
/// The largest of each stretch is found first, by lanes that do not wait for each other; where it is only matters for
/// the best stretch.
fn argmax(logits: &[f32]) -> u32 {
    const LANES: usize = 32;
    const STRETCH: usize = 32 * LANES;
    let larger = |max: f32, logit: f32| if logit > max { logit } else { max };
    let mut best = (f32::NEG_INFINITY, 0);
    for (number, stretch) in logits.chunks(STRETCH).enumerate() {
        let (rows, rest) = stretch.as_chunks::<LANES>();
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for row in rows {
            for (lane, &logit) in lanes.iter_mut().zip(row) {
                *lane = larger(*lane, logit);
            }
        }
        let max = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger);
        if max > best.0 {
            best = (max, number * STRETCH);
        }
    }
    if best.0 == f32::NEG_INFINITY {
        return 0;
    }
    let within = logits.iter().skip(best.1).position(|&logit| logit == best.0);
    u32::try_from(best.1 + within.unwrap_or(0)).unwrap_or(0)
}

/// The `k` best candidates, best first.
///
/// One pass with a bar that rises whenever the buffer fills up; most logits only meet a comparison.
fn top(logits: &[f32], k: usize, out: &mut Vec<Candidate>) {
    out.clear();
    let k = k.min(logits.len());
    if k == 0 {
        return;
    }
    let capacity = k.saturating_mul(2).max(256);
    let mut bar = f32::NEG_INFINITY;
    for (id, &logit) in (0..).zip(logits) {
        // Of equal logits the lower id comes first and wins, so the bar itself need not pass. Before the first cut
        // minus infinity does, NaN never.
        if logit > bar || (bar == f32::NEG_INFINITY && logit == bar) {
            out.push(Candidate { id, logit });
            if out.len() >= capacity {
                out.select_nth_unstable_by(k - 1, Candidate::rank);
                out.truncate(k);
                bar = out[k - 1].logit;
            }
        }
    }
    out.sort_unstable_by(Candidate::rank);
    out.truncate(k);
}

/// Cuts sorted candidates where their probabilities reach `p`; whether they did.
fn cut_top_p(candidates: &mut Vec<Candidate>, p: f32, max: f32, total: f64) -> bool {
    if p >= 1.0 {
        return true;
    }
    let mut sum = 0.0;
    for (index, candidate) in candidates.iter().enumerate() {
        sum += weight(candidate.logit, max);
        if sum >= f64::from(p) * total {
            candidates.truncate(index + 1);
            return true;
        }
    }
    false
}

/// A token with the logarithm of its probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub id: u32,
    /// Natural logarithm of its probability, at most 0.
    pub logprob: f32,
}

/// The logarithm of the sum of the exponentials of all logits that are not NaN.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().fold(f32::NEG_INFINITY, |max, &l| if l > max { l } else { max });
    if !max.is_finite() {
        return f64::from(max);
    }
    let sum: f64 = logits.iter().filter(|l| !l.is_nan()).map(|&l| weight(l, max)).sum();
    f64::from(max) + sum.ln()
}

/// The `k` most probable tokens, best first.
pub fn log_softmax_top(logits: &[f32], k: usize) -> Vec<TokenLogprob> {
    let normaliser = log_sum_exp(logits);
    let mut candidates = Vec::new();
    top(logits, k, &mut candidates);
    candidates
        .iter()
        .map(|c| TokenLogprob { id: c.id, logprob: (f64::from(c.logit) - normaliser) as f32 })
        .collect()
}

/// The logarithm of one token's probability; minus infinity for an id beyond the vocabulary.
pub fn log_softmax_at(logits: &[f32], id: u32) -> f32 {
    match logits.get(id as usize) {
        Some(&logit) => (f64::from(logit) - log_sum_exp(logits)) as f32,
        None => f32::NEG_INFINITY,
    }
}

#[cfg(test)]
mod tests;
