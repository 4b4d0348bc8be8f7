//! Models as Anthropic's clients list them.

use axum::http::HeaderName;
use serde::Serialize;

/// What Anthropic's clients send with each request, and no others.
pub(crate) const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");

/// Answer of `GET /v1/models` to Anthropic's clients.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ModelInfoList {
    data: Vec<ModelInfo>,
    /// All come at once.
    has_more: bool,
    first_id: Option<String>,
    last_id: Option<String>,
}

impl ModelInfoList {
    pub(crate) fn new(data: Vec<ModelInfo>) -> Self {
        let id = |model: Option<&ModelInfo>| model.map(|model| model.id.clone());
        let (first_id, last_id) = (id(data.first()), id(data.last()));
        Self { data, has_more: false, first_id, last_id }
    }
}

/// One model, in Anthropic's shape.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ModelInfo {
    #[serde(rename = "type")]
    kind: &'static str,
    id: String,
    display_name: String,
    created_at: String,
    /// `active`: what is served can be used.
    lifecycle: &'static str,
}

impl ModelInfo {
    /// `created_at` is a time of RFC 3339.
    pub(crate) fn new(name: &str, created_at: &str) -> Self {
        let (id, display_name) = (name.to_owned(), name.to_owned());
        let created_at = created_at.to_owned();
        Self { kind: "model", id, display_name, created_at, lifecycle: "active" }
    }
}
