//! Answers of `/infill` and `/completion`.

use std::time::Duration;

use hapa_service::{Answer, DEFAULT_COMPLETION_TOKENS, FinishReason, Request};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A completion, and the last event of a stream. `response_fields` may leave fields out.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct InfillResponse {
    /// Which of the completions that were wanted.
    pub index: usize,
    /// The text to insert; empty at the end of a stream.
    pub content: String,
    /// True: the completion is whole.
    pub stop: bool,
    /// The model.
    pub model: String,
    /// Tokens of the completion.
    pub tokens_predicted: usize,
    /// Tokens of the prompt.
    pub tokens_evaluated: usize,
    /// Tokens of the prompt that were not computed again.
    pub tokens_cached: usize,
    /// What the request was answered with.
    pub generation_settings: AnswerSettings,
    /// Whether the completion has more than one line.
    pub has_new_line: bool,
    /// Whether it ended because prompt and completion fill the context.
    pub truncated: bool,
    /// `eos` (it is whole), `word` (a string of `stop` came) or `limit` (tokens or time ran out).
    pub stop_type: &'static str,
    /// Which string of `stop` came; empty when none did.
    pub stopping_word: String,
    /// Times in milliseconds.
    pub timings: InfillTimings,
}

/// llama-server's times. Rates are null where nothing was computed, as for an answer out of the cache.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct InfillTimings {
    /// Tokens of the prompt that were not computed again.
    pub cache_n: usize,
    /// Tokens of the prompt that were computed.
    pub prompt_n: usize,
    /// Time for them.
    pub prompt_ms: f64,
    /// Time for each.
    pub prompt_per_token_ms: Option<f64>,
    /// How many a second.
    pub prompt_per_second: Option<f64>,
    /// Tokens of the completion.
    pub predicted_n: usize,
    /// Time for them.
    pub predicted_ms: f64,
    /// Time for each.
    pub predicted_per_token_ms: Option<f64>,
    /// How many a second.
    pub predicted_per_second: Option<f64>,
}

impl InfillTimings {
    fn new(answer: &Answer) -> Self {
        let usage = &answer.usage;
        let prompt_n = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
        let prompt = Pace::new(prompt_n, answer.timings.prefill);
        let predicted = Pace::new(usage.generated_tokens, answer.timings.decode);
        Self {
            cache_n: usage.cached_tokens,
            prompt_n,
            prompt_ms: prompt.ms,
            prompt_per_token_ms: prompt.per_token_ms,
            prompt_per_second: prompt.per_second,
            predicted_n: usage.generated_tokens,
            predicted_ms: predicted.ms,
            predicted_per_token_ms: predicted.per_token_ms,
            predicted_per_second: predicted.per_second,
        }
    }
}

/// How fast tokens came. JSON has no number for a rate of nothing.
struct Pace {
    ms: f64,
    per_token_ms: Option<f64>,
    per_second: Option<f64>,
}

impl Pace {
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    fn new(tokens: usize, time: Duration) -> Self {
        let ms = time.as_secs_f64() * 1e3;
        let happened = tokens > 0 && !time.is_zero();
        Self {
            ms,
            per_token_ms: happened.then(|| ms / tokens as f64),
            per_second: happened.then(|| tokens as f64 / time.as_secs_f64()),
        }
    }
}

/// How a request is answered, under llama-server's names.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct GenerationSettings {
    /// Most tokens of a completion.
    pub n_predict: usize,
    /// 0: always the likeliest token.
    pub temperature: f32,
    /// Only the likeliest tokens that together have this probability.
    pub top_p: f32,
    /// Only so many of the likeliest tokens; 0 is all.
    pub top_k: usize,
    /// Only tokens at least this likely relative to the likeliest.
    pub min_p: f32,
    /// Above 1, tokens that were used become less likely.
    pub repeat_penalty: f32,
    /// How many tokens back the penalty looks.
    pub repeat_last_n: usize,
    /// Makes a sampled answer repeatable; -1 is none.
    pub seed: i64,
    /// A completion ends before any of these.
    pub stop: Vec<String>,
    /// The fewest blanks that a line begins with.
    pub n_indent: usize,
    /// Milliseconds after which a completion ends with the line; 0 is no limit.
    pub t_max_predict_ms: u64,
}

impl GenerationSettings {
    pub(crate) fn new(request: &Request) -> Self {
        let sampling = &request.sampling;
        let time = request.writing_time.unwrap_or_default();
        Self {
            n_predict: if request.prompt_only { 0 } else { request.max_tokens },
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            min_p: sampling.min_p,
            repeat_penalty: sampling.repetition_penalty,
            repeat_last_n: sampling.repetition_window,
            seed: sampling.seed.and_then(|seed| i64::try_from(seed).ok()).unwrap_or(-1),
            stop: request.stop.clone(),
            n_indent: request.min_indent,
            t_max_predict_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Where a request of `/infill` says nothing.
    pub(crate) fn of_infill() -> Self {
        let mut request = Request::complete("", "");
        request.max_tokens = DEFAULT_COMPLETION_TOKENS;
        Self::new(&request)
    }
}

/// The settings of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct AnswerSettings {
    /// Tokens of prompt and completion together; 0 where the model was unloaded meanwhile.
    pub n_ctx: usize,
    /// All others.
    #[serde(flatten)]
    pub params: GenerationSettings,
}

impl InfillResponse {
    /// The response to an answer, with its text or (at the end of a stream) without.
    pub(crate) fn new(answer: &Answer, settings: &AnswerSettings, with_text: bool) -> Self {
        Self {
            index: 0,
            content: if with_text { answer.text.clone() } else { String::new() },
            stop: true,
            model: answer.model.to_string(),
            tokens_predicted: answer.usage.generated_tokens,
            tokens_evaluated: answer.usage.prompt_tokens,
            tokens_cached: answer.usage.cached_tokens,
            generation_settings: settings.clone(),
            has_new_line: answer.text.contains('\n'),
            truncated: answer.finish == FinishReason::ContextFull,
            stop_type: match answer.finish {
                FinishReason::Stop => "eos",
                FinishReason::StopString => "word",
                FinishReason::Length | FinishReason::ContextFull => "limit",
            },
            stopping_word: answer.stop_string.clone().unwrap_or_default(),
            timings: InfillTimings::new(answer),
        }
    }

    /// With the number of the completion, and of its fields those that are wanted.
    pub(crate) fn shown(self, index: usize, fields: &[String]) -> Shown {
        let response = Self { index, ..self };
        if fields.is_empty() {
            return Shown::Whole(Box::new(response));
        }
        let whole = serde_json::to_value(response).unwrap_or_default();
        let found = |field: &String| {
            let at = field.split('/').try_fold(&whole, |value, name| value.get(name))?;
            Some((field.clone(), at.clone()))
        };
        Shown::Fields(fields.iter().filter_map(found).collect())
    }
}

/// Answer of `POST /infill` and `POST /completion`.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(crate) enum InfillAnswer {
    /// A completion.
    One(Shown),
    /// Several, with `n_cmpl` above 1 or to several prompts.
    Many(Vec<Shown>),
}

/// What a client sees of a response.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(crate) enum Shown {
    Whole(Box<InfillResponse>),
    /// Only these fields, those within others under their whole path; what there is not is left out.
    Fields(Map<String, Value>),
}

/// A piece of a streamed completion.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct InfillDelta {
    /// Which of the completions that were wanted.
    pub index: usize,
    /// The piece.
    pub content: String,
    /// False: more follows.
    pub stop: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_numbers_or_nothing() {
        let pace = Pace::new(10, Duration::from_millis(500));
        assert_eq!((pace.ms, pace.per_token_ms, pace.per_second), (500.0, Some(50.0), Some(20.0)));
        for (tokens, time) in
            [(0, Duration::from_secs(1)), (10, Duration::ZERO), (0, Duration::ZERO)]
        {
            let pace = Pace::new(tokens, time);
            assert_eq!((pace.per_token_ms, pace.per_second), (None, None));
        }
    }
}
