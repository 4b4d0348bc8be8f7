//! `POST /api/v1/validation/validate`, and the same for several pieces of code.

use hapa_service::SyntaxIssue;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `POST /api/v1/validation/validate`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct ValidateBody {
    /// Python code.
    #[schema(max_length = 200000)]
    pub code: String,
    /// Only `python` can be checked.
    #[serde(default)]
    pub language: Option<String>,
}

/// Body of `POST /api/v1/validation/validate/batch`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct ValidateBatchBody {
    /// The pieces of code.
    #[schema(min_items = 1)]
    pub code_snippets: Vec<ValidateBody>,
    /// The language of those that name none.
    #[serde(default)]
    pub common_language: Option<String>,
}

/// Answer of `POST /api/v1/validation/validate`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ValidateResponse {
    /// No error was found.
    pub is_valid: bool,
    /// What was found.
    #[schema(value_type = Vec<Object>)]
    pub issues: Vec<SyntaxIssue>,
    /// `success`: the check was made, whatever it found.
    pub status: &'static str,
    /// Always null here.
    pub error_message: Option<String>,
}
