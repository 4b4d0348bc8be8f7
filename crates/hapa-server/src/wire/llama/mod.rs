//! The part of llama-server's API that editors use: `/infill`, `/tokenize`, `/detokenize`, `/props`, `/slots`.

use hapa_service::{Answer, ModelLease, Request, SamplingOptions, Task};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::openai::StopStrings;

/// Body of `POST /infill`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct InfillBody {
    /// Which model; without it the default one.
    #[serde(default)]
    pub model: Option<String>,
    /// The text before the cursor.
    #[serde(default)]
    pub input_prefix: String,
    /// The text after the cursor.
    #[serde(default)]
    pub input_suffix: String,
    /// Other files that may help.
    #[serde(default)]
    pub input_extra: Vec<ExtraFile>,
    /// The beginning of the line of the cursor; follows the prefix.
    #[serde(default)]
    pub prompt: String,
    /// Language of the text. HAPA's own: a completion of `python` ends with the block that the cursor is in; without it
    /// only the model and `stop` end it, as in llama-server.
    #[serde(default)]
    pub language: Option<String>,
    /// Most tokens; -1 is the server's default.
    #[serde(default)]
    pub n_predict: Option<i64>,
    /// 0 (the default) is greedy.
    #[serde(default)]
    pub temperature: Option<f32>,
    /// Only the most probable tokens that together have this probability.
    #[serde(default)]
    pub top_p: Option<f32>,
    /// Only the k most probable tokens; 0 or less is all.
    #[serde(default)]
    pub top_k: Option<i64>,
    /// Makes a sampled answer repeatable; -1 is none.
    #[serde(default)]
    pub seed: Option<i64>,
    /// The completion ends before any of these.
    #[serde(default)]
    pub stop: StopStrings,
    /// Whether events are sent as the completion is written.
    #[serde(default)]
    pub stream: Option<bool>,
}

/// A file that may help a completion.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct ExtraFile {
    /// Its path.
    #[serde(default)]
    pub filename: String,
    /// Its text.
    #[serde(default)]
    pub text: String,
}

/// Length of a completion when nothing else is said.
const INFILL_TOKENS: usize = 128;

impl InfillBody {
    /// The request in the service's terms.
    pub fn into_request(self) -> Request {
        let mut request = Request::complete(self.input_prefix + &self.prompt, self.input_suffix);
        if let Task::Complete { extra, language, .. } = &mut request.task {
            *language = self.language.unwrap_or_default().to_lowercase();
            *extra = self.input_extra.into_iter().map(|file| (file.filename, file.text)).collect();
        }
        let defaults = SamplingOptions::default();
        request.max_tokens = match self.n_predict {
            Some(tokens) if tokens >= 0 => usize::try_from(tokens).unwrap_or(usize::MAX),
            _ => INFILL_TOKENS,
        };
        request.sampling = SamplingOptions {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            top_k: self.top_k.map_or(defaults.top_k, |k| usize::try_from(k).unwrap_or(0)),
            seed: self.seed.and_then(|seed| u64::try_from(seed).ok()),
            ..defaults
        };
        request.stop = self.stop.into();
        request
    }
}

/// Answer of `POST /infill`, and the last event of a stream.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct InfillResponse {
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
    /// Whether it ended for want of tokens.
    pub truncated: bool,
    /// `eos` or `limit`.
    pub stop_type: &'static str,
    /// Times in milliseconds.
    pub timings: InfillTimings,
}

/// llama-server's times.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct InfillTimings {
    /// Tokens of the prompt that were computed.
    pub prompt_n: usize,
    /// Time for them.
    pub prompt_ms: f64,
    /// Tokens of the completion.
    pub predicted_n: usize,
    /// Time for them.
    pub predicted_ms: f64,
}

impl InfillResponse {
    /// The response to an answer, with its text or (at the end of a stream) without.
    pub fn new(answer: &Answer, with_text: bool) -> Self {
        let cut = super::hapa::finish_reason(answer.finish) == "length";
        Self {
            content: if with_text { answer.text.clone() } else { String::new() },
            stop: true,
            model: answer.model.to_string(),
            tokens_predicted: answer.usage.generated_tokens,
            tokens_evaluated: answer.usage.prompt_tokens,
            tokens_cached: answer.usage.cached_tokens,
            truncated: false,
            stop_type: if cut { "limit" } else { "eos" },
            timings: InfillTimings {
                prompt_n: answer.usage.prompt_tokens.saturating_sub(answer.usage.cached_tokens),
                prompt_ms: answer.timings.prefill.as_secs_f64() * 1e3,
                predicted_n: answer.usage.generated_tokens,
                predicted_ms: answer.timings.decode.as_secs_f64() * 1e3,
            },
        }
    }
}

/// A piece of a streamed completion.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct InfillDelta {
    /// The piece.
    pub content: String,
    /// False: more follows.
    pub stop: bool,
}

/// Body of `POST /tokenize`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct TokenizeBody {
    /// Which model; without it the default one.
    #[serde(default)]
    pub model: Option<String>,
    /// The text.
    pub content: String,
    /// Whether the model's begin-of-text token comes first.
    #[serde(default)]
    pub add_special: bool,
}

/// Body of `POST /detokenize`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct DetokenizeBody {
    /// Which model; without it the default one.
    #[serde(default)]
    pub model: Option<String>,
    /// Token ids.
    pub tokens: Vec<u32>,
}

/// What `GET /props` and `GET /slots` ask.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct ModelQuery {
    /// Which model; without it the default one.
    #[serde(default)]
    pub(crate) model: Option<String>,
}

/// Answer of `POST /tokenize`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Tokens {
    /// Token ids.
    pub tokens: Vec<u32>,
}

/// Answer of `POST /detokenize`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Detokenized {
    /// The text.
    pub content: String,
}

/// Answer of `GET /props`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Props {
    /// What a request of `/infill` is answered with where it says nothing.
    pub default_generation_settings: DefaultSettings,
    /// Answers that are computed at once.
    pub total_slots: usize,
    /// The model's name.
    pub model_alias: String,
    /// The model's name again: folders are nobody's business.
    pub model_path: String,
    /// The model's chat template; empty while it is not known, or where there is none.
    pub chat_template: String,
    /// The token that begins a text; empty where there is none.
    pub bos_token: String,
    /// The token that ends a text; empty where there is none.
    pub eos_token: String,
    /// What beside text it understands: nothing.
    pub modalities: Modalities,
    /// Whether the first request has to wait for a load.
    pub is_sleeping: bool,
    /// Whether there is `/slots`.
    pub endpoint_slots: bool,
    /// Whether `/props` can be changed.
    pub endpoint_props: bool,
    /// Whether there is `/metrics`.
    pub endpoint_metrics: bool,
    /// Who answers.
    pub build_info: String,
}

/// Part of [`Props`].
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DefaultSettings {
    /// Tokens of prompt and answer together; 0 while the model is not loaded.
    pub n_ctx: usize,
    /// How tokens are chosen.
    pub params: DefaultParams,
}

/// Part of [`DefaultSettings`].
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DefaultParams {
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
}

/// Part of [`Props`].
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
pub struct Modalities {
    /// Pictures.
    pub vision: bool,
    /// Sound.
    pub audio: bool,
}

impl Props {
    /// Of a model that may be loaded.
    pub(crate) fn new(name: &str, slots: usize, model: Option<&ModelLease>) -> Self {
        let sampling = SamplingOptions::default();
        let token = |id: Option<u32>| {
            let text = id.and_then(|id| Some(model?.tokenizer().token_text(id).into_owned()));
            text.unwrap_or_default()
        };
        Self {
            default_generation_settings: DefaultSettings {
                n_ctx: model.map_or(0, |model| model.context_tokens()),
                params: DefaultParams {
                    n_predict: INFILL_TOKENS,
                    temperature: sampling.temperature,
                    top_p: sampling.top_p,
                    top_k: sampling.top_k,
                    min_p: sampling.min_p,
                    repeat_penalty: sampling.repetition_penalty,
                },
            },
            total_slots: slots,
            model_alias: name.to_owned(),
            model_path: name.to_owned(),
            chat_template: model
                .and_then(|model| Some(model.chat_template()?.source().to_owned()))
                .unwrap_or_default(),
            bos_token: token(model.and_then(|model| model.tokenizer().bos())),
            eos_token: token(model.and_then(|model| model.tokenizer().eos())),
            modalities: Modalities::default(),
            is_sleeping: model.is_none(),
            endpoint_slots: true,
            endpoint_props: false,
            endpoint_metrics: true,
            build_info: concat!("hapa ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Part of the answer of `GET /slots`.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct Slot {
    /// Its number.
    pub id: usize,
    /// Tokens of prompt and answer together; 0 while the model is not loaded.
    pub n_ctx: usize,
    /// Whether it computes an answer.
    pub is_processing: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_numbers_mean_the_default() {
        let body = r#"{"input_prefix":"a\n","prompt":"b","input_suffix":"c","n_predict":-1,"top_k":-5,"seed":-1,
                       "input_extra":[{"filename":"x.py","text":"y"}],"samplers":["top_k"],"cache_prompt":true}"#;
        let request = serde_json::from_str::<InfillBody>(body).unwrap().into_request();
        assert_eq!(request.max_tokens, INFILL_TOKENS);
        assert_eq!((request.sampling.top_k, request.sampling.seed), (0, None));
        assert_eq!(
            request.task,
            Task::Complete {
                prefix: "a\nb".into(),
                suffix: "c".into(),
                language: String::new(),
                file_path: None,
                extra: vec![("x.py".into(), "y".into())]
            }
        );
    }
}
