//! What llama-server tells of itself: `/props`, `/slots`.

use hapa_service::ModelLease;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::response::GenerationSettings;

/// What `GET /props` and `GET /slots` ask.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct ModelQuery {
    /// Which model; without it the default one.
    #[serde(default)]
    pub(crate) model: Option<String>,
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
    /// All others.
    pub params: GenerationSettings,
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
        let token = |id: Option<u32>| {
            let text = id.and_then(|id| Some(model?.tokenizer().token_text(id).into_owned()));
            text.unwrap_or_default()
        };
        Self {
            default_generation_settings: DefaultSettings {
                n_ctx: model.map_or(0, |model| model.context_tokens()),
                params: GenerationSettings::of_infill(),
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
