//! How long a request would wait for its first token, from what waits, what runs and how fast the engine was lately.
//!
//! Steps are measured: what a token of a prompt takes, and what it takes to give each running sequence one more token, by how
//! many run. All are exponentially weighted means, so a machine that slows down is noticed within some dozens of steps.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::request::Priority;

/// Sums in which older observations count less and less.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    total: f64,
    count: f64,
}

impl Mean {
    fn note(&mut self, total: f64, count: f64) {
        /// What an observation counts after another one.
        const KEPT: f64 = 0.95;
        self.total = self.total * KEPT + total;
        self.count = self.count * KEPT + count;
    }

    fn value(self) -> Option<f64> {
        (self.count > 0.0).then(|| self.total / self.count)
    }
}

/// What one step did.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct StepWork {
    pub(super) prompt_tokens: usize,
    /// Sequences that decoded, and the tokens that they got.
    pub(super) decoding: usize,
    pub(super) generated: usize,
    pub(super) took: Duration,
}

/// Classes of batch widths: 1, 2, 3 to 4, 5 to 8, ..., more than 512.
const WIDTHS: usize = 11;

/// How fast the engine is.
#[derive(Debug, Clone, Default)]
pub(super) struct Speed {
    prompt_token: Mean,
    /// Seconds for one more token of each of so many sequences.
    rounds: [Mean; WIDTHS],
    /// Tokens of an answer, normal and interactive.
    answers: [Mean; 2],
}

impl Speed {
    pub(super) fn note_step(&mut self, work: StepWork) {
        let seconds = work.took.as_secs_f64();
        let decoding = match work.decoding {
            0 => 0.0,
            // The tokens of a sequence that got several in one step are as many rounds.
            width if work.prompt_tokens == 0 => {
                let rounds = work.generated as f64 / width as f64;
                if rounds > 0.0 {
                    self.rounds[class(width)].note(seconds, rounds);
                }
                return;
            }
            width => self.round(width).unwrap_or(0.0),
        };
        if work.prompt_tokens > 0 {
            // Decoding rides along: what it would take alone is not the prompt's.
            let reading = (seconds - decoding).max(seconds / 4.0);
            self.prompt_token.note(reading, work.prompt_tokens as f64);
        }
    }

    pub(super) fn note_answer(&mut self, priority: Priority, tokens: usize) {
        self.answers[priority as usize].note(tokens as f64, 1.0);
    }

    /// Seconds for a token of a prompt.
    pub(super) fn prompt_token(&self) -> Option<f64> {
        self.prompt_token.value()
    }

    /// Seconds for one more token of each of `width` sequences; of the nearest width that was seen.
    pub(super) fn round(&self, width: usize) -> Option<f64> {
        let wanted = class(width);
        let known =
            self.rounds.iter().enumerate().filter_map(|(at, round)| Some((at, round.value()?)));
        known.min_by_key(|(at, _)| at.abs_diff(wanted)).map(|(_, seconds)| seconds)
    }

    /// Tokens that an answer will likely have, of at most `most`.
    pub(super) fn answer(&self, priority: Priority, most: usize) -> usize {
        let mean = self.answers[priority as usize].value();
        mean.map_or(most, |mean| (mean.round() as usize).clamp(1, most.max(1)))
    }
}

fn class(width: usize) -> usize {
    (width.next_power_of_two().trailing_zeros() as usize).min(WIDTHS - 1)
}

/// What is to be done before a request's first token.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Prompt tokens: the request's own, those of whoever is served before, and what running ones have not read.
    pub(super) prompt_tokens: usize,
    /// Prompt tokens that one step reads.
    pub(super) chunk_tokens: usize,
    /// Places in the batch.
    pub(super) slots: usize,
    /// Tokens that those in the batch will still write.
    pub(super) running: Vec<usize>,
    /// Tokens that those will write who are taken up before.
    pub(super) waiting: Vec<usize>,
}

impl Ahead {
    /// The wait, once the speeds that it takes are known.
    pub(super) fn takes(&self, speed: &Speed) -> Option<Duration> {
        let rounds = self.rounds_until_a_place();
        let width = (self.running.len() + self.waiting.len() + 1).min(self.slots.max(1));
        let round = speed.round(width);
        if rounds > 0 && round.is_none() {
            return None;
        }
        let round = round.unwrap_or(0.0);
        // Each step that reads a chunk gives those who run a token, too.
        let chunks = self.prompt_tokens.div_ceil(self.chunk_tokens.max(1));
        let carried = if self.running.is_empty() { 0 } else { chunks };
        let reading = self.prompt_tokens as f64 * speed.prompt_token()?;
        let seconds = reading + round * (rounds + carried) as f64;
        Duration::try_from_secs_f64(seconds).ok()
    }

    /// Rounds of decoding until a place in the batch is free, when each place goes to the next who waits.
    fn rounds_until_a_place(&self) -> usize {
        let mut ends: BinaryHeap<Reverse<usize>> =
            self.running.iter().map(|&left| Reverse(left)).collect();
        for &tokens in &self.waiting {
            let begins = match ends.len() < self.slots {
                true => 0,
                false => ends.pop().map_or(0, |Reverse(end)| end),
            };
            ends.push(Reverse(begins + tokens));
        }
        match ends.len() < self.slots {
            true => 0,
            false => ends.pop().map_or(0, |Reverse(end)| end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speed() -> Speed {
        let mut speed = Speed::default();
        for _ in 0..20 {
            let prompt = StepWork {
                prompt_tokens: 100,
                took: Duration::from_millis(200),
                ..StepWork::default()
            };
            speed.note_step(prompt);
            for (decoding, millis) in [(1, 10), (8, 40)] {
                let took = Duration::from_millis(millis);
                speed.note_step(StepWork { decoding, generated: decoding, took, prompt_tokens: 0 });
            }
        }
        speed
    }

    fn millis(ahead: &Ahead, speed: &Speed) -> Option<u128> {
        ahead.takes(speed).map(|wait| wait.as_millis())
    }

    #[test]
    fn nothing_is_said_before_anything_was_measured() {
        let ahead = Ahead { prompt_tokens: 10, chunk_tokens: 10, slots: 1, ..Ahead::default() };
        assert_eq!(ahead.takes(&Speed::default()), None);
        let mut read_only = Speed::default();
        read_only.note_step(StepWork {
            prompt_tokens: 1,
            took: Duration::from_millis(1),
            ..StepWork::default()
        });
        assert_eq!(millis(&ahead, &read_only), Some(10));
        let full = Ahead { running: vec![5], ..ahead };
        assert_eq!(full.takes(&read_only), None, "nobody has decoded yet");
    }

    #[test]
    fn an_idle_engine_reads_the_prompt_at_once() {
        let ahead = Ahead { prompt_tokens: 500, chunk_tokens: 100, slots: 8, ..Ahead::default() };
        assert_eq!(millis(&ahead, &speed()), Some(1_000));
    }

    #[test]
    fn decoding_rides_along() {
        let ahead = Ahead {
            prompt_tokens: 500,
            chunk_tokens: 100,
            slots: 8,
            running: vec![50],
            ..Ahead::default()
        };
        assert_eq!(millis(&ahead, &speed()), Some(1_000 + 5 * 10));
        // And is not taken for a part of the prompt.
        let mut mixed = speed();
        let took = Duration::from_millis(240);
        for _ in 0..200 {
            mixed.note_step(StepWork { prompt_tokens: 100, decoding: 8, generated: 8, took });
        }
        assert!((mixed.prompt_token().unwrap() - 0.002).abs() < 1e-6);
    }

    #[test]
    fn a_full_batch_is_waited_for_place_by_place() {
        let ahead = |running: &[usize], waiting: &[usize]| Ahead {
            prompt_tokens: 0,
            chunk_tokens: 100,
            slots: 2,
            running: running.to_vec(),
            waiting: waiting.to_vec(),
        };
        assert_eq!(ahead(&[5], &[]).rounds_until_a_place(), 0);
        assert_eq!(ahead(&[5, 9], &[]).rounds_until_a_place(), 5);
        assert_eq!(
            ahead(&[5, 9], &[10]).rounds_until_a_place(),
            9,
            "the next is at 9, as the first place goes on to 15"
        );
        assert_eq!(ahead(&[5, 9], &[10, 1]).rounds_until_a_place(), 10);
        assert_eq!(ahead(&[], &[3, 4]).rounds_until_a_place(), 3);
    }

    #[test]
    fn several_tokens_a_step_are_several_rounds() {
        let mut speed = Speed::default();
        speed.note_step(StepWork {
            decoding: 1,
            generated: 4,
            took: Duration::from_millis(40),
            prompt_tokens: 0,
        });
        assert!((speed.round(1).unwrap() - 0.01).abs() < 1e-9);
        assert!((speed.round(500).unwrap() - 0.01).abs() < 1e-9, "the nearest that is known");
    }

    #[test]
    fn answers_are_as_long_as_those_before() {
        let mut speed = Speed::default();
        assert_eq!(speed.answer(Priority::Normal, 300), 300);
        for _ in 0..5 {
            speed.note_answer(Priority::Normal, 100);
        }
        assert_eq!(speed.answer(Priority::Normal, 300), 100);
        assert_eq!(speed.answer(Priority::Normal, 30), 30);
        assert_eq!(speed.answer(Priority::Interactive, 64), 64);
    }

    #[test]
    fn a_slower_machine_is_noticed() {
        let mut speed = speed();
        for _ in 0..60 {
            let took = Duration::from_millis(30);
            speed.note_step(StepWork { decoding: 1, generated: 1, took, prompt_tokens: 0 });
        }
        assert!(speed.round(1).unwrap() > 0.028);
    }
}
