//! Measuring generations of a loaded model.

use std::sync::mpsc;
use std::time::Instant;

use hapa_model::{GenerateEvent, GenerateRequest, Generation, Model};

use crate::error::{CliError, Result};

/// Prompts of one length, each with other tokens from the first on, so that no prefix is shared.
pub(super) struct Prompts {
    /// Tokens of plain text.
    tokens: Vec<u32>,
    length: usize,
}

impl Prompts {
    pub(super) fn new(model: &Model, length: usize) -> Self {
        let tokenizer = model.tokenizer();
        let special: Vec<u32> = tokenizer.special_tokens().iter().map(|token| token.id).collect();
        let size = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
        let tokens = (0..size).filter(|token| !special.contains(token)).collect();
        Self { tokens, length }
    }

    /// Prompt number `number`; the same in every process.
    pub(super) fn make(&self, number: u64) -> Vec<u32> {
        // SplitMix64: https://doi.org/10.1145/2714064.2660195
        let mut state = number.wrapping_mul(0xd134_2543_de82_ef95);
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let count = self.tokens.len().max(1) as u64;
        // The first token counts the prompts, which are then different as long as there are tokens.
        std::iter::once(number)
            .chain(std::iter::repeat_with(&mut next))
            .take(self.length)
            .map(|place| self.tokens.get((place % count) as usize).copied().unwrap_or(0))
            .collect()
    }
}

/// Speeds of one sequence alone.
pub(super) struct Single {
    pub(super) prefill_tokens_per_second: f64,
    pub(super) decode_tokens_per_second: f64,
}

fn request(prompt: Vec<u32>, tokens: usize) -> GenerateRequest {
    GenerateRequest { ignore_eos: true, ..GenerateRequest::new(prompt, tokens) }
}

/// One answer, by the engine's own clock.
pub(super) fn single(model: &Model, prompt: Vec<u32>, tokens: usize) -> Result<Single> {
    let prompt_tokens = prompt.len() as f64;
    let answer = model.generate(request(prompt, tokens))?.blocking_collect()?;
    let (timings, usage) = (answer.finish.timings, answer.finish.usage);
    if usage.cached_tokens > 0 {
        return Err(CliError::Failed(format!(
            "{} tokens of a prompt came from the prefix cache; the figure would be wrong",
            usage.cached_tokens
        )));
    }
    let decoded = usage.generated_tokens.saturating_sub(1) as f64;
    Ok(Single {
        prefill_tokens_per_second: prompt_tokens / timings.prefill.as_secs_f64().max(1e-9),
        decode_tokens_per_second: decoded / timings.decode.as_secs_f64().max(1e-9),
    })
}

/// Tokens a second of many answers together, while all of them are being written: from the moment that the last one
/// has its first token until the first one ends.
pub(super) fn batch(model: &Model, prompts: Vec<Vec<u32>>, tokens: usize) -> Result<f64> {
    let count = prompts.len();
    let mut generations = Vec::with_capacity(count);
    for prompt in prompts {
        generations.push(model.generate(request(prompt, tokens))?);
    }
    let (sender, arrivals) = mpsc::channel();
    let arrivals: Vec<Arrival> = std::thread::scope(|scope| {
        for (sequence, generation) in generations.into_iter().enumerate() {
            let sender = sender.clone();
            scope.spawn(move || read(sequence, generation, &sender));
        }
        drop(sender);
        arrivals.iter().collect::<Result<_>>()
    })?;
    Ok(rate_together(&arrivals, count))
}

/// Tokens that reached a reader.
struct Arrival {
    sequence: usize,
    at: Instant,
    tokens: usize,
}

fn read(sequence: usize, mut generation: Generation, to: &mpsc::Sender<Result<Arrival>>) {
    while let Some(event) = generation.blocking_next() {
        let arrival = match event {
            Ok(GenerateEvent::Text(delta)) => {
                Ok(Arrival { sequence, at: Instant::now(), tokens: delta.tokens.len() })
            }
            Ok(GenerateEvent::Finished(_)) => return,
            Err(error) => Err(error.into()),
        };
        if to.send(arrival).is_err() {
            return;
        }
    }
}

fn rate_together(arrivals: &[Arrival], count: usize) -> f64 {
    let of = |sequence| arrivals.iter().filter(move |arrival| arrival.sequence == sequence);
    let firsts = (0..count).filter_map(|sequence| of(sequence).map(|a| a.at).min());
    let lasts = (0..count).filter_map(|sequence| of(sequence).map(|a| a.at).max());
    let (Some(all_began), Some(one_ended)) = (firsts.max(), lasts.min()) else { return 0.0 };
    let (from, to) = if all_began < one_ended {
        (all_began, one_ended)
    } else {
        // Answers too short to overlap: from first to last token of all.
        let times = || arrivals.iter().map(|arrival| arrival.at);
        match (times().min(), times().max()) {
            (Some(from), Some(to)) => (from, to),
            _ => return 0.0,
        }
    };
    let within = arrivals.iter().filter(|arrival| arrival.at > from && arrival.at <= to);
    let tokens: usize = within.map(|arrival| arrival.tokens).sum();
    tokens as f64 / to.duration_since(from).as_secs_f64().max(1e-9)
}

/// The middle value; of an even number, the mean of the middle two.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (lower, upper) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    match (values.get(lower), values.get(upper)) {
        (Some(lower), Some(upper)) => f64::midpoint(*lower, *upper),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(vec![]), 0.0);
    }

    #[test]
    fn prompts_differ_from_the_first_token_on() {
        let prompts = Prompts { tokens: (100..50_000).collect(), length: 64 };
        let made: Vec<_> = (1..50).map(|number| prompts.make(number)).collect();
        for (i, a) in made.iter().enumerate() {
            assert_eq!(a.len(), 64);
            assert_eq!(*a, prompts.make(i as u64 + 1), "repeatable");
            assert!(made[..i].iter().all(|b| a[0] != b[0]));
        }
    }

    #[test]
    fn a_batch_counts_only_while_all_are_written() {
        let start = Instant::now();
        let at =
            |sequence, ms| Arrival { sequence, at: start + Duration::from_millis(ms), tokens: 1 };
        // The first begins a second before the other; together they write from 1000 to 1300 ms.
        let arrivals: Vec<Arrival> = [0, 500, 1000, 1100, 1200, 1300]
            .map(|ms| at(0, ms))
            .into_iter()
            .chain([1000, 1100, 1200, 1300, 1400].map(|ms| at(1, ms)))
            .collect();
        let rate = rate_together(&arrivals, 2);
        assert!((rate - 20.0).abs() < 0.01, "{rate}");
    }
}
