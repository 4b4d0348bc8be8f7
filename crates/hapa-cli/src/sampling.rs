//! Flags about how an answer is written.

use clap::Args;
use hapa_service::{CacheControl, Request, SamplingOptions};

use crate::settings::{Flags, Settings};

/// How tokens are chosen and how many.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Answer")]
pub(crate) struct SamplingArgs {
    /// Most tokens of the answer
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// 0 always takes the likeliest token; up to 2
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Choose among this many tokens; 0 is all
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,
    /// Choose among tokens at least this likely relative to the likeliest
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Above 1, tokens that were used become less likely
    #[arg(long, value_name = "R")]
    repetition_penalty: Option<f32>,
    /// Make a sampled answer repeatable
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Compute the answer anew, whatever the cache holds
    #[arg(long)]
    no_cache: bool,
}

impl SamplingArgs {
    pub(crate) fn flags(&self, flags: &mut Flags) {
        let number = |value: Option<f32>| value.map(shortest);
        flags
            .set("generate.max_tokens", self.max_tokens.map(i64::from), "--max-tokens")
            .set("generate.temperature", number(self.temperature), "--temperature")
            .set("generate.top_p", number(self.top_p), "--top-p")
            .set("generate.top_k", self.top_k.map(i64::from), "--top-k")
            .set("generate.min_p", number(self.min_p), "--min-p")
            .set(
                "generate.repetition_penalty",
                number(self.repetition_penalty),
                "--repetition-penalty",
            );
    }

    /// Writes settings and flags into a request.
    pub(crate) fn apply(&self, settings: &Settings, request: &mut Request) {
        let from = &settings.generate;
        request.max_tokens = from.max_tokens;
        request.sampling = SamplingOptions {
            temperature: from.temperature,
            top_p: from.top_p,
            top_k: from.top_k,
            min_p: from.min_p,
            repetition_penalty: from.repetition_penalty,
            seed: self.seed,
            ..SamplingOptions::default()
        };
        request.cache = CacheControl { no_cache: self.no_cache, ..CacheControl::default() };
    }
}

/// The double that prints as the float does: 0.1 and not 0.10000000149.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
